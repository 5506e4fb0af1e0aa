"""Watches one living child: until its first token, while it serves, and when an answer broke.

It only finds out and says so through `broke`; what follows is decided in `lifecycle.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

import aiohttp
import tenacity

from supervisor.child.generation import Generation
from supervisor.child.health import TICK_S, Health, Probe, ProbeAnswer
from supervisor.child.process import Child
from supervisor.lifecycle.causes import Symptom
from supervisor.lifecycle.silence_limits import slowest
from supervisor.lifecycle.stall_watch import Signs, Stall, StallWatch, moved
from supervisor.machine import system

log = logging.getLogger("mlxguard.watch")

#: The socket of a dying process is reset a moment before its parent hears of the end.
EXIT_NEWS_S = 0.05

#: The server logs the death of its generation thread a moment before /health knows.
HEALTH_NEWS_S = (0.0, 0.03, 0.1)

#: Refusals of the first token before it is taken for a model that cannot serve.
REFUSALS = 3

#: Without telemetry, an otherwise idle process that uses this share of a core is at work.
_CPU_SHARE = 0.2
_MEMORY_STEP = 1_000_000


class ChildBroke(Protocol):
    def __call__(self, symptom: Symptom, *, firmly: bool = False, note: str = "") -> None: ...


class _NotYet(Exception):
    """Not ready; ask again."""


class Watch:
    """One child on one port. Every coroutine here ends when the child's end is known, or is cancelled."""

    def __init__(
        self,
        child: Child,
        session: aiohttp.ClientSession,
        port: int,
        canary_timeout_s: float,
        broke: ChildBroke,
    ) -> None:
        self._child = child
        self._port = port
        self._probe = Probe(session, port)
        self._canary_timeout_s = canary_timeout_s
        self._broke = broke
        self._refusals = 0
        self._cpu, self._cpu_at, self._cpu_beat = 0.0, 0.0, 0

    # Until the first token

    async def first_token(self) -> bool:
        """True once the child has answered; False if it never will, which `broke` was told."""
        waiting = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_NotYet),
            wait=tenacity.wait_exponential(multiplier=0.02, max=0.1),
        )
        return await waiting(self._ask_for_token)

    async def _ask_for_token(self) -> bool:
        health = await self._probe.health()
        if health is Health.DEAD:
            self._broke(Symptom.LOAD_FAILED)
            return False
        if health is not Health.OK or not self._owns_port():
            raise _NotYet
        # The server answers /health while it loads, and this question once it has loaded: no time limit
        # but that of the start.
        answer = await self._probe.canary(None)
        if answer is ProbeAnswer.ERROR:
            return self._refused()
        if answer is not ProbeAnswer.TOKEN:
            raise _NotYet
        return True

    def _owns_port(self) -> bool:
        """Another server may have taken the port first, and answer well: never take it for the child."""
        pid = self._child.pid
        return pid is not None and system.listens(pid, self._port) is not False

    def _refused(self) -> bool:
        self._refusals += 1
        if self._refusals < REFUSALS:
            raise _NotYet
        self._broke(Symptom.LOAD_FAILED, note=f"mlxguard: first token refused: {self._probe.refusal}")
        return False

    # While it serves

    async def serve(self, generation: Generation, stall_s: float) -> None:
        """Look twice a second until it is dead."""
        first = self._signs(generation)
        stalls = StallWatch(stall_s, self._canary_timeout_s, first, now=time.monotonic(), wall=time.time())
        while True:
            await asyncio.sleep(TICK_S)
            health = await self._probe.health()
            if health is Health.DEAD:
                self._broke(Symptom.THREAD_DEAD)
                return
            signs = self._signs(generation, heard=health is Health.OK)
            stall = stalls.tick(signs, now=time.monotonic(), wall=time.time())
            if stall is Stall.NONE:
                continue
            log.warning("child_stalled", extra={"generation": generation.number, "stall": stall.name.lower()})
            if await self._wedged(generation, signs, stall):
                self._broke(Symptom.WEDGE, firmly=True)
                return
            stalls.reset(time.monotonic())

    async def _wedged(self, generation: Generation, before: Signs, stall: Stall) -> bool:
        answer = await self._probe.canary(self._canary_timeout_s)
        return answer is not ProbeAnswer.TOKEN and not moved(before, self._signs(generation), stall)

    def _signs(self, generation: Generation, *, heard: bool = True) -> Signs:
        telemetry, memory = self._child.telemetry, tuple[int, ...]()
        if telemetry is not None:
            beat, memory = telemetry.beat, (telemetry.active_bytes, telemetry.cache_bytes)
        else:
            beat, memory = self._cpu_beat_now(), (self._memory_steps(),)
        return Signs(
            generation.in_flight,
            generation.reads,
            beat,
            memory,
            heard,
            slowest(work.phase for work in generation.works),
            generation.silent_until,
        )

    def _memory_steps(self) -> int:
        """Memory from outside, in steps that a Python program that merely spins does not cross."""
        pid = self._child.pid or 0
        return (system.memory_of_members(pid, self._child.members or (pid,)) or 0) // _MEMORY_STEP

    def _cpu_beat_now(self) -> int:
        """Counts the looks between which the process was at work: a coarse beat for telemetry = "off"."""
        used, now = system.cpu_seconds(self._child.pid or 0) or 0.0, time.monotonic()
        if now - self._cpu_at >= TICK_S / 2:
            self._cpu_beat += (used - self._cpu) > _CPU_SHARE * (now - self._cpu_at)
            self._cpu, self._cpu_at = used, now
        return self._cpu_beat

    # When an answer broke, or the log said something alarming

    async def examine(self, generation: Generation | None) -> None:
        """Find out whether the child is dead; tells `broke` if it is and has not exited."""
        await asyncio.wait((self._child.exited,), timeout=EXIT_NEWS_S)
        for pause in HEALTH_NEWS_S:
            await asyncio.sleep(pause)
            if self._child.exited.done():
                return
            health = await self._probe.health()
            if health is Health.DEAD:
                self._broke(Symptom.THREAD_DEAD if generation else Symptom.LOAD_FAILED)
                return
            if health is Health.REFUSED:
                await asyncio.wait((self._child.exited,), timeout=1.0)
        if generation is not None:
            await self._demand_life(generation)

    async def _demand_life(self, generation: Generation) -> None:
        """An old mlx-lm says 200 on /health with a dead thread: a token, bytes or a beat is what counts."""
        before = self._signs(generation)
        canary = asyncio.create_task(self._probe.canary(self._canary_timeout_s))
        try:
            while not canary.done():
                await asyncio.wait(
                    (canary, self._child.exited), timeout=0.05, return_when=asyncio.FIRST_COMPLETED
                )
                if self._child.exited.done() or self._lively(before, self._signs(generation)):
                    return
            answer = await canary
        finally:
            canary.cancel()
        after = self._signs(generation)
        foreseen = time.monotonic() < after.silent_until
        if answer is ProbeAnswer.SILENT and not foreseen and not moved(before, after, Stall.QUIET):
            self._broke(Symptom.WEDGE, firmly=True)
        elif answer in (ProbeAnswer.ERROR, ProbeAnswer.REFUSED):
            self._broke(Symptom.THREAD_DEAD, note=f"mlxguard: canary refused: {self._probe.refusal}")

    def _lively(self, before: Signs, after: Signs) -> bool:
        """Others got bytes since, or the generation thread was seen to move twice: a dead one has no beat."""
        beats = self._child.telemetry is not None and after.beat - before.beat >= 2
        return beats or after.reads != before.reads
