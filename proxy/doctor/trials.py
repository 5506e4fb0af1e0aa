"""Tries on this machine what differs between systems, with small programs, and reports what was seen.

Each trial takes well under a second (`mlx_rise` as long as importing mlx) and leaves nothing running.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import psutil

from supervisor.child.process import Child, Exit, is_running, kill_group
from supervisor.machine import system

_MODULE = "proxy.doctor.trial_programs"
#: Seconds that a trial program may need for a step.
_STEP_S = 30.0
#: Seconds within which a signal must take effect, and between looks at whether it has.
_SIGNAL_S, _LOOK_S = 2.0, 0.01


class TrialFailed(Exception):
    """A trial program did not do its part; the text is a clause."""


class MemoryRise(NamedTuple):
    """A process allocated `asked` bytes; its memory from outside before and after, None if unreadable."""

    asked: int
    before: int | None
    after: int | None


class MlxRise(NamedTuple):
    """The same by MLX. `active` is the rise that MLX reports, `working_set` is Metal's; both in bytes."""

    rise: MemoryRise
    active: int
    backend: str
    working_set: int | None


class PortSeen(NamedTuple):
    """Process `pid` listened on a port: which holder was found, and whether it was seen to listen."""

    pid: int
    holder: str | None
    listens: bool | None


class ProcessSeen(NamedTuple):
    """What was read of a process, and whether it was seen as stopped before and after SIGSTOP."""

    cpu_seconds: float | None
    created: float | None
    stopped_before: bool
    stopped_after: bool


class Orphans(NamedTuple):
    """A gateway with `started` processes was killed: the pids that were left after `seconds`."""

    started: int
    seconds: float
    left: tuple[int, ...]


async def rise(size: int) -> MemoryRise:
    """Let a process allocate `size` bytes. Raises TrialFailed."""
    async with _program("allocate", size) as program:
        before = system.memory_of(program.pid)
        await program.next()
        return MemoryRise(size, before, system.memory_of(program.pid))


async def mlx_rise(size: int) -> MlxRise:
    """Let a process allocate `size` bytes by MLX. Raises TrialFailed."""
    async with _program("mlx", size) as program:
        first, before = program.output, system.memory_of(program.pid)
        second = await program.next()
        seen = MemoryRise(size, before, system.memory_of(program.pid))
        active = second["active"] - first["active"]
        return MlxRise(seen, active, first["backend"], first["working_set"])


async def port_seen() -> PortSeen:
    """Let a process listen on a port. Raises TrialFailed."""
    async with _program("listen") as program:
        port = program.output["port"]
        holder = await asyncio.to_thread(system.holder_of_port, port)
        return PortSeen(program.pid, holder, system.listens(program.pid, port))


async def process_seen() -> ProcessSeen:
    """Stop a process by SIGSTOP. Raises TrialFailed."""
    async with _program("allocate") as program:
        cpu, created = system.cpu_seconds(program.pid), system.created(program.pid)
        before = system.is_stopped(program.pid)
        os.kill(program.pid, signal.SIGSTOP)
        after = await becomes_true(lambda: system.is_stopped(program.pid), _SIGNAL_S)
        return ProcessSeen(cpu, created, before, after)


async def orphans(limit_s: float) -> Orphans:
    """Kill a gateway whose child ignores every signal that can be ignored. Raises TrialFailed."""
    async with _program("gateway") as program:
        pids: list[int] = program.output["pids"]
        leader = pids[0]
        watched = [psutil.Process(leader).ppid(), *pids]  # the keeper too
        os.kill(program.pid, signal.SIGKILL)
        began = time.monotonic()
        try:
            await becomes_true(lambda: not any(map(is_running, watched)), limit_s)
            took = time.monotonic() - began
            return Orphans(len(watched), took, tuple(filter(is_running, watched)))
        finally:
            if is_running(leader):
                kill_group(leader)


async def exits() -> tuple[Exit, Exit]:
    """The reported ends of two children: one exits with 7, the other is killed by signal 9."""
    return await _exit("raise SystemExit(7)"), await _exit("import time; time.sleep(60)", signal.SIGKILL)


async def _exit(code: str, number: int | None = None) -> Exit:
    child = Child(lambda _: None)
    await child.spawn(lambda _: (sys.executable, "-S", "-c", code), os.environ)
    await child.born
    if number is not None and child.pid is not None:
        os.kill(child.pid, number)
    try:
        async with asyncio.timeout(_STEP_S):
            return await asyncio.shield(child.exited)
    finally:
        child.kill()
        await child.wait_closed()


class _Program:
    """A running trial program. `output` is what it printed last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.output: dict[str, Any] = {}

    async def read(self) -> dict[str, Any]:
        """Wait for the end of the current step. Raises TrialFailed."""
        assert self._process.stdout is not None and self._process.stderr is not None
        try:
            async with asyncio.timeout(_STEP_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise TrialFailed(f"a trial program printed nothing for {_STEP_S:g} s") from None
        if not line:
            words = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise TrialFailed(f"a trial program ended: {words[-1] if words else 'it printed nothing'}")
        self.output = json.loads(line)
        return self.output

    async def next(self) -> dict[str, Any]:
        """Let the program do its next step. Raises TrialFailed."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self.read()


@asynccontextmanager
async def _program(name: str, size: int = 0) -> AsyncIterator[_Program]:
    """Run a trial program up to the end of its first step; it is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MODULE, name, str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a group of its own, like the child
    )
    try:
        program = _Program(process)
        await program.read()
        yield program
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def becomes_true(condition: Callable[[], bool], limit_s: float) -> bool:
    """Poll `condition` for up to `limit_s` seconds; returns whether it became true."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(_LOOK_S)
    return condition()
