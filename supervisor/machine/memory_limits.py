"""What limits memory on this machine besides RAM: control groups, Metal's wired limit, an NVIDIA card.

The macOS half follows `man sysctl` and recorded outputs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from supervisor.machine.system import free_memory, sysctl, total_memory
from supervisor.memory_model.ceiling import Readings

_MIB = 2**20
#: Without a limit, cgroup v1 reports the largest multiple of a page, which is above this.
_NO_LIMIT = 2**62
#: What reading a file of a control group raises where there is no such group, or this process may not see it.
_NO_SUCH_FILE = (FileNotFoundError, NotADirectoryError, PermissionError)


def read(backend: str, working_set: int | None) -> Readings:
    """Read all limits now. `backend` and `working_set` come from the tracing process: only MLX knows them.

    Raises:
        OSError: a limit that exists cannot be read now. To leave it out would promise memory that is not
            there.
    """
    if (available := free_memory()) is None:
        raise OSError("the system does not report its free memory now")
    limit, used = cgroup_memory() or (None, 0)
    gpu_total, gpu_free = (nvidia_memory() if backend == "cuda" else None) or (None, None)
    return Readings(
        total=total_memory(),
        available=available,
        backend=backend,
        working_set=working_set,
        wired_limit=wired_limit(),
        cgroup_limit=limit,
        cgroup_used=used,
        gpu_total=gpu_total,
        gpu_free=gpu_free,
    )


def cgroup_memory(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[int, int] | None:
    """(limit, used) bytes of the enclosing control group that has least left; None without a limit.

    Linux kernel documentation, admin-guide/cgroup-v2.rst (memory.max, memory.current) and
    cgroup-v1/memory.rst. Inactive file pages are reclaimed under pressure, so they do not count as used.
    """
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except _NO_SUCH_FILE:
        return None
    found = [reading for line in lines for reading in _groups(root, line)]
    return min(found, key=lambda reading: reading[0] - reading[1], default=None)


def _groups(root: Path, line: str) -> Iterator[tuple[int, int]]:
    """Limits for one line of /proc/self/cgroup: those of its group and of all groups above."""
    _, controllers, path = line.split(":", 2)
    if not controllers:
        base, limit, used, inactive = root, "memory.max", "memory.current", "inactive_file"
    elif "memory" in controllers.split(","):
        base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        inactive = "total_inactive_file"
    else:
        return
    # In a container the path may be the host's, which does not exist: the root is then the container's group.
    inside = PurePosixPath(path.lstrip("/"))
    for group in (base / inside, *(base / above for above in inside.parents), base):
        reading = _group(group, limit, used, inactive)
        if reading is not None:
            yield reading


def _group(folder: Path, limit: str, used: str, inactive: str) -> tuple[int, int] | None:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        now = int((folder / used).read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii")
    except _NO_SUCH_FILE:
        return None
    if most == "max" or int(most) >= _NO_LIMIT:
        return None
    cached = next((int(n) for name, n in map(str.split, statistics.splitlines()) if name == inactive), 0)
    return int(most), max(0, now - cached)


def wired_limit(platform: str = sys.platform) -> int | None:
    """`sysctl iogpu.wired_limit_mb` in bytes: 0 means Metal's default; None where the system has none."""
    if platform != "darwin":
        return None
    answer = sysctl("iogpu.wired_limit_mb")
    return int(answer) * _MIB if answer is not None and answer.isdigit() else None


class _NvmlMemory(ctypes.Structure):
    """`nvmlMemory_t` of nvml.h."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def nvidia_memory(environ: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(total, free) bytes of the card that the child will use, from NVML; None if it does not report."""
    try:
        nvml: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        handle, memory = ctypes.c_void_p(), _NvmlMemory()
        if _handle(nvml, environ, handle) != 0 or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
        return int(memory.total), int(memory.free)
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, environ: Mapping[str, str], handle: ctypes.c_void_p) -> int:
    """Get the first card of CUDA_VISIBLE_DEVICES, by number or UUID; return NVML's status."""
    first = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    if first.isdigit():
        return int(nvml.nvmlDeviceGetHandleByIndex_v2(int(first), ctypes.byref(handle)))
    return int(nvml.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle)))
