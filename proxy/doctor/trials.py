"""Tries on this machine what differs between systems, with small programs of its own, and says what was seen.

Nothing is judged here; `mlxguard-proxy doctor` does. Each trial takes well under a second, `mlx_rise` as
long as importing mlx takes, and each leaves nothing running.
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
from dataclasses import dataclass
from typing import Any

import psutil

from supervisor.child.process import Child, Exit, kill_group, runs
from supervisor.machine import system

_MODULE = "proxy.doctor.trial_programs"
_STEP_S = 30.0
#: A signal is acted on a moment after it is sent.
_SIGNAL_S = 2.0
_LOOK_S = 0.01


class TrialFailed(Exception):
    """A program of ours did not do its part; the text is a clause."""


@dataclass(frozen=True, slots=True)
class MemoryRise:
    """A process took `asked` bytes; what was read of it from outside before and after. None: not readable."""

    asked: int
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class MlxRise:
    """The same with MLX's memory. `active`: the rise that MLX tells; `working_set`: Metal's. In bytes."""

    rise: MemoryRise
    active: int
    backend: str
    working_set: int | None


@dataclass(frozen=True, slots=True)
class PortSeen:
    """A process `pid` listened on a port: who was found by the port, and whether the process was seen to."""

    pid: int
    holder: str | None
    listens: bool | None


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """What was read of a process of ours; `stopped_*`: whether it was taken for stopped, before and after."""

    cpu_seconds: float | None
    created: float | None
    stopped_before: bool
    stopped_after: bool


@dataclass(frozen=True, slots=True)
class Orphans:
    """A gateway was killed over `started` processes: the pids that were left after `seconds`."""

    started: int
    seconds: float
    left: tuple[int, ...]


async def rise(size: int) -> MemoryRise:
    """Let a process take `size` bytes. Raises TrialFailed."""
    async with _specimen("allocate", size) as specimen:
        before = system.memory_of(specimen.pid)
        await specimen.next()
        return MemoryRise(size, before, system.memory_of(specimen.pid))


async def mlx_rise(size: int) -> MlxRise:
    """Let a process take `size` bytes by MLX. Raises TrialFailed."""
    async with _specimen("mlx", size) as specimen:
        first, before = specimen.told, system.memory_of(specimen.pid)
        second = await specimen.next()
        seen = MemoryRise(size, before, system.memory_of(specimen.pid))
        active = second["active"] - first["active"]
        return MlxRise(seen, active, first["backend"], first["working_set_bytes"])


async def port_seen() -> PortSeen:
    """Let a process listen. Raises TrialFailed."""
    async with _specimen("listen") as specimen:
        port = specimen.told["port"]
        holder = await asyncio.to_thread(system.holder_of_port, port)
        return PortSeen(specimen.pid, holder, system.listens(specimen.pid, port))


async def process_seen() -> ProcessSeen:
    """Stop a process. Raises TrialFailed."""
    async with _specimen("allocate") as specimen:
        cpu, created = system.cpu_seconds(specimen.pid), system.created(specimen.pid)
        before = system.is_stopped(specimen.pid)
        os.kill(specimen.pid, signal.SIGSTOP)
        after = await comes(lambda: system.is_stopped(specimen.pid), _SIGNAL_S)
        return ProcessSeen(cpu, created, before, after)


async def orphans(limit_s: float) -> Orphans:
    """Kill a gateway whose child ignores every signal that can be ignored. Raises TrialFailed."""
    async with _specimen("gateway") as specimen:
        pids: list[int] = specimen.told["pids"]
        leader = pids[0]
        keeper = psutil.Process(leader).ppid()
        watched = [keeper, *pids]
        os.kill(specimen.pid, signal.SIGKILL)
        began = time.monotonic()
        try:
            await comes(lambda: not any(map(runs, watched)), limit_s)
            took = time.monotonic() - began
            return Orphans(len(watched), took, tuple(filter(runs, watched)))
        finally:
            if runs(leader):
                kill_group(leader)


async def exits() -> tuple[Exit, Exit]:
    """How the ends of two children are told: one that exits with 7, one that is killed with signal 9."""
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


class _Specimen:
    """One of `specimens.py`, running. `told`: what it said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.told: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    async def listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_STEP_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise TrialFailed(f"a program of ours said nothing for {_STEP_S:g} s") from None
        if not line:
            assert self._process.stderr is not None
            words = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise TrialFailed(f"a program of ours ended: {words[-1] if words else 'it said nothing'}")
        self.told = json.loads(line)
        return self.told

    async def next(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self.listen()


@asynccontextmanager
async def _specimen(name: str, size: int = 0) -> AsyncIterator[_Specimen]:
    """Run one up to its first step; it is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MODULE, name, str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a group of its own, as the child is
    )
    try:
        specimen = _Specimen(process)
        await specimen.listen()
        yield specimen
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def comes(true: Callable[[], bool], limit_s: float) -> bool:
    """Whether it comes within so many seconds, where nobody tells us of it."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if true():
            return True
        await asyncio.sleep(_LOOK_S)
    return true()
