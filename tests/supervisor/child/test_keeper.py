"""The keeper alone, driven over its pipes as the gateway does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.child import keeper

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-S",
    "-c",
    "import signal, subprocess, sys, time\n"
    "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\n"
    "print(subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
    "time.sleep(60)",
)


class Kept:
    """A keeper with its pipes."""

    def __init__(self, command: tuple[str, ...], grace_s: float = 0.3) -> None:
        lifeline, self.lifeline = os.pipe()
        status, status_end = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                keeper.__file__,
                str(lifeline),
                str(status_end),
                str(grace_s),
                "",
                *command,
            ],
            pass_fds=(lifeline, status_end),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        os.close(lifeline)
        os.close(status_end)
        self._status = os.fdopen(status)
        self.pid = int(self.told().removeprefix("pid "))

    def told(self) -> str:
        return self._status.readline().strip()

    def send_signal(self, number: int) -> None:
        os.write(self.lifeline, bytes([number]))

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end_lifeline(self) -> None:
        os.close(self.lifeline)
        self.lifeline = -1

    def close(self) -> None:
        if self.lifeline >= 0:
            self.end_lifeline()
        self.process.wait(5)
        self._status.close()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def keep() -> Iterator[type[Kept]]:
    made: list[Kept] = []

    class Made(Kept):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            made.append(self)

    yield Made
    for kept in made:
        kept.close()


def ended(pid: int, within_s: float = 3.0) -> bool:
    deadline = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(0)", "exit 0"),
        ("raise SystemExit(3)", "exit 3"),
        ("import os; os.abort()", "signal 6"),
    ],
)
def test_the_exact_exit_is_reported(keep: type[Kept], code: str, told: str) -> None:
    assert keep((sys.executable, "-S", "-c", code)).told() == told


def test_the_child_leads_a_session_of_its_own(keep: type[Kept]) -> None:
    kept = keep(SLEEP)
    while os.getpgid(kept.pid) != kept.pid:  # between fork and setsid
        time.sleep(0.001)
    assert os.getsid(kept.pid) == kept.pid != kept.process.pid


def test_a_byte_signals_the_child(keep: type[Kept]) -> None:
    kept = keep(SLEEP)
    kept.send_signal(signal.SIGTERM)
    assert kept.told() == "signal 15"


def test_signals_that_the_gateway_ignores_are_not_ignored_by_the_child(keep: type[Kept]) -> None:
    """A shell that starts the proxy in the background has SIGINT ignored."""
    code = "import signal; print([signal.getsignal(n) for n in (2, 13, 15)], signal.pthread_sigmask(0, []))"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        kept = keep((sys.executable, "-c", code))
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    line = kept.line()
    assert "default_int_handler" in line
    assert line.endswith("<Handlers.SIG_DFL: 0>] set()")


def test_the_end_of_the_lifeline_ends_a_child(keep: type[Kept]) -> None:
    kept = keep(SLEEP)
    kept.end_lifeline()
    kept.process.wait(1)
    assert ended(kept.pid, 0.2)


def test_the_end_of_the_lifeline_ends_a_group_that_ignores_sigterm(keep: type[Kept]) -> None:
    kept = keep(STUBBORN)
    grandchild = int(kept.line())
    kept.end_lifeline()
    assert ended(kept.pid)
    assert ended(grandchild)


def test_what_a_child_leaves_in_its_group_is_ended_with_it(keep: type[Kept]) -> None:
    kept = keep(STUBBORN)
    grandchild = int(kept.line())
    os.kill(kept.pid, signal.SIGKILL)
    assert kept.told() == "signal 9"
    assert ended(grandchild)


def test_a_keeper_is_not_ended_by_what_is_sent_to_the_proxy(keep: type[Kept]) -> None:
    kept = keep(SLEEP)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        kept.process.send_signal(number)
    kept.send_signal(signal.SIGKILL)
    assert kept.told() == "signal 9"


def test_a_command_that_does_not_exist_says_so_and_exits_127(keep: type[Kept]) -> None:
    kept = keep(("/nowhere/server",))
    assert kept.told() == "exit 127"
    assert kept.line() == "mlxguard: cannot run /nowhere/server: No such file or directory"


def test_it_imports_nothing_of_this_project() -> None:
    source = Path(keeper.__file__).read_text()
    assert "import supervisor" not in source
    assert "from supervisor" not in source
