"""Memory of the child and of the machine, states of processes, and listeners on ports.

The macOS half follows Apple's public headers (`libproc.h`, `sys/resource.h`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

#: `struct rusage_info_v0`: a 16-byte uuid, then 64-bit words; its layout is a prefix of every later one:
#: user_time, system_time, pkg_idle_wkups, interrupt_wkups, pageins, wired_size, resident_size,
#: phys_footprint, proc_start_abstime, proc_exit_abstime.
_RUSAGE_INFO_V0 = 0
_WORDS = 10
_PHYS_FOOTPRINT = 7

#: What reading about a process raises: psutil's errors, and those of the system, such as EMFILE when no file
#: descriptor is left for /proc.
_UNREADABLE = (psutil.Error, OSError)

#: Errors that say what this process lacks, and nothing about the other side of a connection: descriptors,
#: memory for a socket, a free local port.
_OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})

#: Seconds that the command `sysctl` may take.
_SYSCTL_S = 5.0


_T = TypeVar("_T")


def is_own_shortage(error: BaseException) -> bool:
    """Whether connecting failed for want of something that this process lacks, such as file descriptors."""
    return isinstance(error, OSError) and error.errno in _OWN_SHORTAGES


class _RusageInfoV0(ctypes.Structure):
    _fields_ = (("uuid", ctypes.c_uint8 * 16), ("words", ctypes.c_uint64 * _WORDS))


def memory_of(pid: int) -> int | None:
    """Memory in bytes of a whole process group, measured from outside; None if it is gone.

    On macOS this is phys_footprint, which `footprint -p` prints, since RSS misses GPU memory there. On Linux
    it is RSS, without the memory of an NVIDIA card (measured: 1.9 GB while MLX used 37 GB there).
    """
    return memory_of_members(pid, group(pid))


def memory_of_members(pid: int, members: Sequence[int]) -> int | None:
    """The same for known members that are still in the group.

    It does not walk the process table, which takes a hundred times as long.
    """
    measure = _footprint if sys.platform == "darwin" else _rss
    there = [member for member in members if _in_group(member, pid)]
    sizes = [size for member in there if (size := measure(member)) is not None]
    return sum(sizes) if sizes else None


def group(pid: int) -> list[int]:
    """Pids of the process and of its descendants in its process group; walks the process table."""
    members = [pid]
    with contextlib.suppress(*_UNREADABLE):
        leader = psutil.Process(pid)
        members = [leader.pid, *(child.pid for child in leader.children(recursive=True))]
    return [member for member in members if _in_group(member, pid)]


def _in_group(pid: int, group_id: int) -> bool:
    try:
        return os.getpgid(pid) == group_id
    except OSError:
        return False


def _ask(pid: int, question: Callable[[psutil.Process], _T]) -> _T | None:
    """The answer about a process; None if it is gone or cannot be read."""
    try:
        return question(psutil.Process(pid))
    except _UNREADABLE:
        return None


def _rss(pid: int) -> int | None:
    return _ask(pid, lambda process: int(process.memory_info().rss))


@functools.cache
def _libproc() -> ctypes.CDLL:
    return ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)


def _footprint(pid: int) -> int | None:
    """`proc_pid_rusage(pid, RUSAGE_INFO_V0, &info)`; 0 means success."""
    info = _RusageInfoV0()
    if _libproc().proc_pid_rusage(pid, _RUSAGE_INFO_V0, ctypes.byref(info)) != 0:
        return None
    return int(info.words[_PHYS_FOOTPRINT])


def cpu_seconds(pid: int) -> float | None:
    """Seconds of CPU time that the process has used; None if it is gone."""
    times = _ask(pid, psutil.Process.cpu_times)
    return None if times is None else float(times.user + times.system)


@functools.cache
def total_memory() -> int:
    """Bytes of RAM. Raises OSError only as long as it could never be read."""
    return int(psutil.virtual_memory().total)


def free_memory() -> int | None:
    """Bytes of RAM available without swapping; None if it cannot be read now."""
    try:
        return int(psutil.virtual_memory().available)
    except _UNREADABLE:
        return None


def sysctl(name: str) -> str | None:
    """The value of a macOS sysctl; None where there is no such name or no such command."""
    command = ("/usr/sbin/sysctl", "-n", name)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSCTL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def chip(platform: str = sys.platform) -> str | None:
    """The processor's name, such as "Apple M3 Max"; None if the system does not report it."""
    if platform == "darwin":
        return sysctl("machdep.cpu.brand_string")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def system_kills() -> int | None:
    """Number of processes killed by the system for lack of memory since boot; None if it does not report it.

    Linux counts them in /proc/vmstat (Documentation/filesystems/proc.rst), including those of containers.
    macOS (jetsam) reports them only in its log.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return counts[0] if counts else None


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal or a debugger, so that it cannot answer."""
    return _ask(pid, psutil.Process.status) in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def listens(pid: int, port: int) -> bool | None:
    """Whether the process or one of its group listens on `port`; None if the system does not tell."""
    for member in group(pid):
        try:
            if _listens(psutil.Process(member), port):
                return True
        except psutil.NoSuchProcess:
            continue
        except _UNREADABLE:
            return None
    return False


def _listens(process: psutil.Process, port: int) -> bool:
    connections = process.net_connections(kind="tcp")
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def holder_of_port(port: int) -> str | None:
    """The process that listens on a TCP port, as `name (pid 123)`; None if none does or it is not visible.

    macOS shows ordinary users only their own processes, so each process is asked separately.
    """
    with contextlib.suppress(*_UNREADABLE):
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(*_UNREADABLE):
                if _listens(process, port):
                    return f"{process.info['name']} (pid {process.pid})"
    return None


def created(pid: int) -> float | None:
    """When the process was created, in epoch seconds; distinguishes it from a later process with its pid."""
    return _ask(pid, psutil.Process.create_time)
