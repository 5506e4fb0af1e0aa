"""Watches one living child: until its first token, while it serves, and when a response broke.

It only reports, through `on_broken`, that the child no longer serves; `state_machine.py` decides what
follows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

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

#: The sockets of a dying process are reset up to this many seconds before its parent learns of the end.
EXIT_DELAY_S = 0.05

#: Pauses in seconds before asking /health again: the server logs the death of its generation thread a moment
#: before /health reports it.
HEALTH_DELAYS_S = (0.0, 0.03, 0.1)

#: After this many refusals of the first token, the model counts as unable to serve.
MAX_REFUSALS = 3

#: Without telemetry, a process that uses this share of a core counts as working.
_CPU_SHARE = 0.2
#: Without telemetry, memory is rounded to steps of this many bytes, which a process that only spins never
#: crosses.
_MEMORY_STEP = 1_000_000


class _NotYet(Exception):
    """The child is not ready; ask again."""


class Watch:
    """Watches one child on one port. Every coroutine ends when the child's end is known, or by cancellation.

    Args:
        on_broken: called with a symptom and a line for the last lines of the report (may be empty) when the
            child will not serve again although its process lives.
    """

    def __init__(
        self,
        child: Child,
        session: aiohttp.ClientSession,
        port: int,
        canary_timeout_s: float,
        on_broken: Callable[[Symptom, str], None],
    ) -> None:
        self._child = child
        self._port = port
        self._probe = Probe(session, port)
        self._canary_timeout_s = canary_timeout_s
        self._on_broken = on_broken
        self._refusals = 0
        self._cpu, self._cpu_at, self._cpu_beat = 0.0, 0.0, 0

    @property
    def posts(self) -> int:
        """Canaries that were sent."""
        return self._probe.posts

    # Until the first token

    async def first_token(self) -> bool:
        """Wait for the first token; False if the child will never produce one, which has been reported."""
        waiting = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_NotYet),
            wait=tenacity.wait_exponential(multiplier=0.02, max=0.1),
        )
        return await waiting(self._ask_for_token)

    async def _ask_for_token(self) -> bool:
        health = await self._probe.health()
        if health is Health.DEAD:
            self._on_broken(Symptom.LOAD_FAILED, "")
            return False
        if health is not Health.OK or not self._owns_port():
            raise _NotYet
        # The server answers /health while it loads, but the canary only once it has loaded, so the only time
        # limit is that of the start.
        answer = await self._probe.canary(None)
        if answer is ProbeAnswer.ERROR:
            return self._refused()
        if answer is not ProbeAnswer.TOKEN:
            raise _NotYet
        return True

    def _owns_port(self) -> bool:
        """Whether the child itself listens: another server may have taken the port, and may answer well."""
        pid = self._child.pid
        return pid is not None and system.listens(pid, self._port) is not False

    def _refused(self) -> bool:
        self._refusals += 1
        if self._refusals < MAX_REFUSALS:
            raise _NotYet
        self._on_broken(Symptom.LOAD_FAILED, f"mlxguard: first token refused: {self._probe.refusal}")
        return False

    # While it serves

    async def serve(self, generation: Generation, stall_s: float) -> None:
        """Look at the child twice a second until it is dead."""
        first = self._signs(generation)
        stalls = StallWatch(stall_s, self._canary_timeout_s, first, now=time.monotonic(), wall=time.time())
        while True:
            await asyncio.sleep(TICK_S)
            health = await self._probe.health()
            if health is Health.DEAD:
                self._on_broken(Symptom.THREAD_DEAD, "")
                return
            if health is Health.NOT_ASKED:  # the silence would be ours
                stalls.reset(time.monotonic())
                continue
            signs = self._signs(generation, heard=health is Health.OK)
            stall = stalls.tick(signs, now=time.monotonic(), wall=time.time())
            if stall is Stall.NONE:
                continue
            log.warning("child_stalled", extra={"generation": generation.number, "stall": stall.name.lower()})
            if await self._wedged(generation, signs, stall):
                self._on_broken(Symptom.WEDGE, "")
                return
            stalls.reset(time.monotonic())

    async def _wedged(self, generation: Generation, before: Signs, stall: Stall) -> bool:
        answer = await self._probe.canary(self._canary_timeout_s)
        silent = answer not in (ProbeAnswer.TOKEN, ProbeAnswer.NOT_ASKED)
        return silent and not moved(before, self._signs(generation), stall)

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
            slowest(work.phase for work in generation.work),
            generation.silence_expected_until,
        )

    def _memory_steps(self) -> int:
        """Memory measured from outside, as a number of steps."""
        pid = self._child.pid or 0
        return (system.memory_of_members(pid, self._child.members or (pid,)) or 0) // _MEMORY_STEP

    def _cpu_beat_now(self) -> int:
        """A coarse beat for telemetry = "off": the number of looks at which the process had been working."""
        used, now = system.cpu_seconds(self._child.pid or 0) or 0.0, time.monotonic()
        if now - self._cpu_at >= TICK_S / 2:
            self._cpu_beat += (used - self._cpu) > _CPU_SHARE * (now - self._cpu_at)
            self._cpu, self._cpu_at = used, now
        return self._cpu_beat

    # When a response broke, or a line of output was suspicious

    async def examine(self, generation: Generation | None) -> None:
        """Find out whether the child is dead, and report it if its process lives on."""
        await asyncio.wait((self._child.exited,), timeout=EXIT_DELAY_S)
        for pause in HEALTH_DELAYS_S:
            await asyncio.sleep(pause)
            if self._child.exited.done():
                return
            health = await self._probe.health()
            if health is Health.DEAD:
                self._on_broken(Symptom.THREAD_DEAD if generation else Symptom.LOAD_FAILED, "")
                return
            if health is Health.REFUSED:
                await asyncio.wait((self._child.exited,), timeout=1.0)
        if generation is not None:
            await self._require_activity(generation)

    async def _require_activity(self, generation: Generation) -> None:
        """Require a token, bytes or a beat: an old mlx-lm answers /health with 200 despite a dead thread."""
        before = self._signs(generation)
        canary = asyncio.create_task(self._probe.canary(self._canary_timeout_s))
        try:
            while not canary.done():
                await asyncio.wait(
                    (canary, self._child.exited), timeout=0.05, return_when=asyncio.FIRST_COMPLETED
                )
                if self._child.exited.done() or self._is_active(before, self._signs(generation)):
                    return
            answer = await canary
        finally:
            canary.cancel()
        after = self._signs(generation)
        predicted = time.monotonic() < after.silence_expected_until
        if answer is ProbeAnswer.SILENT and not predicted and not moved(before, after, Stall.QUIET):
            self._on_broken(Symptom.WEDGE, "")
        elif answer in (ProbeAnswer.ERROR, ProbeAnswer.REFUSED):
            self._on_broken(Symptom.THREAD_DEAD, f"mlxguard: canary refused: {self._probe.refusal}")

    def _is_active(self, before: Signs, after: Signs) -> bool:
        """Whether other requests got bytes, or the thread moved twice: a dead thread has no beat."""
        beats = self._child.telemetry is not None and after.beat - before.beat >= 2
        return beats or after.reads != before.reads
