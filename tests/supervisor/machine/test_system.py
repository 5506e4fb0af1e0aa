"""What the operating system reports about processes and ports; the macOS half against Apple's header."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from supervisor.child import process
from supervisor.child.process import kill_group
from supervisor.machine import memory_limits, system


def test_memory_counts_the_whole_group_and_nothing_else() -> None:
    code = (
        "import subprocess, sys; b = bytearray(50_000_000); subprocess.run([sys.executable, *sys.argv[1:]])"
    )
    inner = "import time; block = bytearray(80_000_000); print('ready', flush=True); time.sleep(60)"
    command = [sys.executable, "-S", "-c", code, "-S", "-c", inner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        leader.stdout.readline()
        memory = system.memory_of(leader.pid)
        assert memory is not None
        assert 130_000_000 < memory < 230_000_000
        members = system.group(leader.pid)
        assert len(members) == 2
        assert system.memory_of_members(leader.pid, members) == pytest.approx(memory, rel=0.1)
        alone = system.memory_of_members(leader.pid, [leader.pid, os.getpid()])
        assert alone is not None
        assert alone < memory - 70_000_000, "only members count"
        kill_group(leader.pid)
    assert system.memory_of(leader.pid) is None


def test_kills_by_the_system_are_counted_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = system.system_kills()
    assert (kills is None) == (not Path("/proc/vmstat").exists())
    monkeypatch.setattr(system.Path, "read_text", lambda _: "nr_free_pages 7\noom_kill 3\n")
    assert system.system_kills() == 3
    monkeypatch.setattr(system.Path, "read_text", lambda _: "nr_free_pages 7\n")
    assert system.system_kills() is None


def test_the_chip_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def sysctl(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        assert command == ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.CompletedProcess(command, 0, "Apple M3 Max\n", "")

    monkeypatch.setattr(subprocess, "run", sysctl)
    assert system.chip("darwin") == "Apple M3 Max"
    monkeypatch.setattr(system.Path, "read_text", lambda *_, **__: "processor : 0\nmodel name : AMD EPYC\n")
    assert system.chip("linux") == "AMD EPYC"


def test_a_system_without_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "run", missing)
    assert system.sysctl("hw.memsize") is None


def test_a_stopped_process_is_distinguished_from_a_running_one() -> None:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as process:
        assert not system.is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert system.is_stopped(process.pid)
        process.kill()
    assert not system.is_stopped(process.pid)


def test_a_process_that_is_gone_is_unknown_and_no_error() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as done:
        done.wait()
    assert system.memory_of(done.pid) is None
    assert system.cpu_seconds(done.pid) is None
    assert system.created(done.pid) is None
    assert system.group(done.pid) == []


def test_cpu_time_grows_with_work() -> None:
    before = system.cpu_seconds(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    after = system.cpu_seconds(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before >= 0.05


def test_the_holder_of_a_port_is_named() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout
        port = int(holder.stdout.readline())
        described = system.holder_of_port(port)
        assert described is not None
        assert described.endswith(f"(pid {holder.pid})")
        assert system.listens(holder.pid, port) is True
        assert system.listens(os.getpid(), port) is False
        kill_group(holder.pid)


def test_a_free_port_has_no_holder() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert system.holder_of_port(probe.getsockname()[1]) is None


def test_memory_of_the_machine() -> None:
    assert 0 < system.free_memory() < system.total_memory()


def test_the_footprint_is_read_at_the_offset_in_apples_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for libproc, which Linux lacks; writes struct rusage_info_v0 of sys/resource.h."""

    class RusageInfoV0(ctypes.Structure):
        _fields_ = (
            ("ri_uuid", ctypes.c_uint8 * 16),
            ("ri_user_time", ctypes.c_uint64),
            ("ri_system_time", ctypes.c_uint64),
            ("ri_pkg_idle_wkups", ctypes.c_uint64),
            ("ri_interrupt_wkups", ctypes.c_uint64),
            ("ri_pageins", ctypes.c_uint64),
            ("ri_wired_size", ctypes.c_uint64),
            ("ri_resident_size", ctypes.c_uint64),
            ("ri_phys_footprint", ctypes.c_uint64),
            ("ri_proc_start_abstime", ctypes.c_uint64),
            ("ri_proc_exit_abstime", ctypes.c_uint64),
        )

    def proc_pid_rusage(pid: int, flavor: int, buffer: object) -> int:
        if pid != 42:
            return -1
        info = RusageInfoV0.from_address(ctypes.addressof(buffer._obj))  # type: ignore[attr-defined]
        info.ri_phys_footprint, info.ri_resident_size = 123_456, 1
        return 0

    monkeypatch.setattr(system, "_libproc", lambda: SimpleNamespace(proc_pid_rusage=proc_pid_rusage))
    assert ctypes.sizeof(system._RusageInfoV0) == ctypes.sizeof(RusageInfoV0)
    assert system._footprint(42) == 123_456
    assert system._footprint(43) is None


def test_a_reading_that_fails_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptor is left for /proc."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    system.total_memory()
    pid = os.getpid()
    for name in ("virtual_memory", "process_iter"):
        monkeypatch.setattr(psutil, name, fail)
    for name in ("memory_info", "cpu_times", "status", "net_connections", "children", "create_time"):
        monkeypatch.setattr(psutil.Process, name, fail)
    monkeypatch.setattr(system.Path, "read_text", fail)
    monkeypatch.setattr(system, "group", lambda _: [pid])
    assert system.listens(pid, 1) is None
    assert system.total_memory() > 0
    unknown = (system.free_memory(), system.system_kills(), system.memory_of(pid), system.cpu_seconds(pid))
    assert unknown == (None,) * 4
    assert (system.holder_of_port(1), system.created(pid)) == (None, None)
    assert not system.is_stopped(pid)
    assert process.is_running(pid), "what cannot be read may still run"
    with pytest.raises(OSError, match="free memory"):
        memory_limits.read("cpu", None)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_what_this_process_lacks_is_no_fault_of_the_other_side(number: int) -> None:
    assert system.is_own_shortage(OSError(number, "why"))
    assert not system.is_own_shortage(ConnectionRefusedError(errno.ECONNREFUSED, "why"))
    assert not system.is_own_shortage(ValueError())
