"""Readings of the machine: control groups from files as Linux writes them, the rest from stand-ins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from supervisor.machine import memory_limits


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="ascii")


@pytest.fixture
def system(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "cgroup", tmp_path / "self"


def test_version_2_counts_what_cannot_be_dropped(system: tuple[Path, Path]) -> None:
    root, membership = system
    membership.write_text("0::/user.slice/app\n", encoding="ascii")
    stat = "anon 100\ninactive_file 300\n"
    group(root / "user.slice/app", memory__max="1000\n", memory__current="700\n", memory__stat=stat)
    assert memory_limits.cgroup_memory(root, membership) == (1000, 400)


def test_a_group_above_may_be_tighter(system: tuple[Path, Path]) -> None:
    root, membership = system
    membership.write_text("0::/outer/inner\n", encoding="ascii")
    group(root / "outer/inner", memory__max="max\n", memory__current="100\n", memory__stat="")
    group(root / "outer", memory__max="500\n", memory__current="450\n", memory__stat="")
    assert memory_limits.cgroup_memory(root, membership) == (500, 450)


def test_a_containers_own_root_is_found_when_the_path_is_the_hosts(system: tuple[Path, Path]) -> None:
    root, membership = system
    membership.write_text("0::/docker/abc\n", encoding="ascii")
    group(root, memory__max="800\n", memory__current="80\n", memory__stat="")
    assert memory_limits.cgroup_memory(root, membership) == (800, 80)


def test_version_1_has_a_folder_for_memory(system: tuple[Path, Path]) -> None:
    root, membership = system
    membership.write_text("3:cpuset:/\n4:memory:/job\n", encoding="ascii")
    files = {"memory__limit_in_bytes": "900\n", "memory__usage_in_bytes": "600\n"}
    group(root / "memory/job", **files, memory__stat="total_inactive_file 200\n")
    assert memory_limits.cgroup_memory(root, membership) == (900, 400)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit_is_none(system: tuple[Path, Path], limit: str) -> None:
    root, membership = system
    membership.write_text("0::/\n", encoding="ascii")
    group(root, memory__max=limit, memory__current="1\n", memory__stat="")
    assert memory_limits.cgroup_memory(root, membership) is None


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert memory_limits.cgroup_memory(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "0\n", 0),  # recorded on macOS 14: Metal's own limit
        (0, "57344\n", 57344 * 2**20),
        (1, "", None),  # sysctl: unknown oid 'iogpu.wired_limit_mb', on an Intel Mac
    ],
)
def test_the_wired_limit_as_sysctl_prints_it(
    monkeypatch: pytest.MonkeyPatch, status: int, output: str, expected: int | None
) -> None:
    def sysctl(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, status, output, "")

    monkeypatch.setattr(subprocess, "run", sysctl)
    assert memory_limits.wired_limit("darwin") == expected


class Nvml:
    """Two cards; answers as nvml.h says: 0 is success."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, _: object) -> int:
        self.asked.append(index)
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, _: object) -> int:
        self.asked.append(uuid)
        return 0

    def nvmlDeviceGetMemoryInfo(self, _: object, memory: object) -> int:
        memory._obj.total, memory._obj.free = 1000, 700  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(("visible", "asked"), [("", 0), ("1,0", 1), ("GPU-abc", b"GPU-abc")])
def test_the_card_that_cuda_will_use_is_asked(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: object
) -> None:
    nvml = Nvml()
    monkeypatch.setattr(memory_limits.ctypes, "CDLL", lambda _: nvml)
    assert memory_limits.nvidia_memory({"CUDA_VISIBLE_DEVICES": visible}) == (1000, 700)
    assert nvml.asked == [asked]


def test_no_card_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> object:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(memory_limits.ctypes, "CDLL", missing)
    assert memory_limits.nvidia_memory({}) is None


def test_this_machine_can_be_read() -> None:
    readings = memory_limits.read("cpu", None)
    assert 0 < readings.available <= readings.total
    assert readings.gpu_free is None
