"""One child under its keeper, with small programs in its place."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import pytest

from supervisor.child.process import Child, Exit, widen_pipe
from tests.supervisor.conftest import alive, gone, until

Spawn = Callable[..., Awaitable[Child]]


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """`await spawn(code, lines)`: a child that runs `code` with the number of its telemetry pipe in argv."""
    made: list[Child] = []

    async def start(code: str, lines: list[bytes] | None = None) -> Child:
        child = Child((lines if lines is not None else []).append)
        made.append(child)
        await child.spawn(lambda fd: (sys.executable, "-S", "-c", code, str(fd)), os.environ)
        await child.born
        return child

    yield start
    for child in made:
        child.signal(signal.SIGKILL)
        await child.wait_closed()


async def test_the_exit_is_reported_at_once_and_with_the_last_output(spawn: Spawn) -> None:
    lines: list[bytes] = []
    child = await spawn("import sys, time; time.sleep(0.2); print('bye'); sys.exit('why')", lines)
    assert alive(child.pid or 0)
    assert await child.exited == Exit(1, None)
    assert sorted(lines) == [b"bye", b"why"]


async def test_an_end_by_a_signal_is_reported_as_such(spawn: Spawn) -> None:
    child = await spawn("import time; time.sleep(60)")
    os.kill(child.pid or 0, signal.SIGKILL)
    assert await child.exited == Exit(None, signal.SIGKILL)


async def test_a_grandchild_outside_the_group_does_not_delay_the_report_of_the_exit(spawn: Spawn) -> None:
    """It has left the group, so the keeper must not end it, and it keeps the output pipe open."""
    lines: list[bytes] = []
    code = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-S', '-c', 'import time; time.sleep(60)']\n"
        "p = subprocess.Popen(command, start_new_session=True)\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    child = await spawn(code, lines)
    await until(lambda: bool(lines))
    grandchild = psutil.Process(int(lines[0]))
    child.signal(signal.SIGTERM)
    assert await child.exited == Exit(None, signal.SIGTERM)
    assert grandchild.is_running()
    grandchild.kill()


async def test_telemetry_arrives_and_its_pipe_is_the_childs_alone(spawn: Spawn) -> None:
    code = (
        "import os, sys, time\n"
        "fd = int(sys.argv[1])\n"
        'os.write(fd, b\'{"active_bytes": 5, "peak_bytes": 7, "cache_bytes": 3, "beat": 2, \')\n'
        'os.write(fd, b\'"card_free": 1, "card_total": 9}\\n\')\n'
        "os.close(fd); time.sleep(60)"
    )
    child = await spawn(code)
    await until(lambda: child.telemetry is not None)
    seen = child.telemetry
    assert seen is not None
    assert (seen.active_bytes, seen.peak_bytes, seen.cache_bytes, seen.beat) == (5, 7, 3, 2)
    assert (seen.card_free, seen.card_total) == (1, 9)
    assert 0 <= time.monotonic() - seen.at < 1


async def test_when_the_keeper_is_killed_the_gateway_ends_the_child(spawn: Spawn) -> None:
    child = await spawn("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    keeper = psutil.Process(child.pid).ppid()
    os.kill(keeper, signal.SIGKILL)
    assert await asyncio.wait_for(child.exited, 3) == Exit(None, None)
    assert await gone(child.pid or 0, within_s=0.5)


async def test_when_the_keeper_is_stopped_the_child_can_still_be_killed(spawn: Spawn) -> None:
    child = await spawn("import time; time.sleep(60)")
    keeper = psutil.Process(child.pid).ppid()
    os.kill(keeper, signal.SIGSTOP)
    try:
        child.signal(signal.SIGKILL)
        child.kill()
        assert await gone(child.pid or 0)
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert await child.exited == Exit(None, signal.SIGKILL)


async def test_abandoning_ends_the_child_as_if_the_gateway_had_ended(spawn: Spawn) -> None:
    child = await spawn("import time; time.sleep(60)")
    child.abandon()
    assert await gone(child.pid or 0)


async def test_a_spawn_that_fails_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = psutil.Process().num_fds()
    child = Child(lambda line: None)
    with pytest.raises(FileNotFoundError):
        await child.spawn(lambda fd: ("true",), {})
    await asyncio.sleep(0)  # transports close in the next turn of the loop
    assert psutil.Process().num_fds() == before


async def test_descriptors_are_all_given_back(spawn: Spawn) -> None:
    before = psutil.Process().num_fds()
    for _ in range(3):
        await (await spawn("pass")).exited
    await asyncio.sleep(0.05)
    assert psutil.Process().num_fds() == before


def test_a_wide_pipe_takes_much_at_once() -> None:
    source, sink = os.pipe()
    widen_pipe(sink, 1 << 20)
    os.set_blocking(sink, False)
    assert os.write(sink, bytes(1 << 20)) >= 1 << 16
    if sys.platform == "linux":
        with pytest.raises(BlockingIOError):
            os.write(sink, b"x")
    os.close(source)
    os.close(sink)


async def test_a_waiter_that_is_cancelled_does_not_harm_the_birth(spawn: Spawn) -> None:
    """A stop may come before the keeper has reported the pid."""
    child = Child(lambda _: None)
    child.born.cancel()
    child._on_status(b"pid 7")
    assert child.pid == 7
    child._on_status(b"exit 0")
    child._on_status(b"exit 0")
