"""Looks at the child's memory ten times a second, and sees to it that it does not run out.

What it sees goes to the gate. At the soft mark nobody new is let in; at the hard mark the requests end that
cost least; what finished sequences hold is taken back when it is in somebody's way. core/pressure.py and
core/displacement.py decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.core.answer import Phase
from proxy.core.budget import Need
from proxy.core.displacement import Displacing, Recycles, tiny
from proxy.core.pressure import Load, Mark, Marks, Pressure, Reading, least_costly
from proxy.gate import GateSnapshot
from proxy.job import Job, Stage
from supervisor.generation import Snapshot
from supervisor.lifecycle import State

log = logging.getLogger("mlxguard.memory")

INTERVAL_S = 0.1
#: What was ended is still there until the child writes to it next, which in prefill takes a step.
_SETTLE_S = 2.0
#: An idle child that holds more than planned is left alone for so long: somebody may come back for it.
_IDLE_S = 30.0
#: Tiny requests between two looks: one that pushes answers out, one that pushes prompts out.
_TOGETHER = 2
#: Without a new look within this, something else is wrong.
_LOOK_S = 5.0
_AFTER_BUG_S = 5.0
#: What a tiny request holds beside others, in tokens.
_TINY = Need(prompt=8, completion=1)


class SupervisorLike(Protocol):
    """What is used of supervisor.runner.Supervisor."""

    def snapshot(self) -> Snapshot: ...

    def recycle(self, reason: str) -> Awaitable[None]: ...


class GateLike(Protocol):
    """What is used of proxy.gate.Gate."""

    def snapshot(self) -> GateSnapshot: ...

    def running(self) -> tuple[tuple[str, Need, int], ...]: ...

    def lacking(self) -> int: ...

    def hold(self, on: bool) -> None: ...

    def saw(self, held: int, highest: int | None = None) -> None: ...

    def set_retained(self, retained: int) -> None: ...


class Send(Protocol):
    """proxy.synthetic.Synthetics.send."""

    def __call__(self, kind: Any, body: Mapping[str, Any], *, abandon: bool = False) -> Awaitable[bool]: ...


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """For status and metrics: the mark, and what was done so far."""

    mark: Mark
    ended: int
    reclaims: int
    recycles: int

    @property
    def actions(self) -> dict[str, int]:
        """How often each was done."""
        return {"ended": self.ended, "reclaims": self.reclaims, "recycles": self.recycles}


class MemoryGuard:
    """One per proxy.

    Args:
        jobs: the requests of this moment.
        send: asks the child in the proxy's own name.
        entries: how many sequences the child's prompt cache keeps; 0 while there is no plan.
    """

    def __init__(
        self,
        supervisor: SupervisorLike,
        gate: GateLike,
        jobs: Callable[[], Iterable[Job]],
        send: Send,
        *,
        entries: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._jobs = jobs
        self._send = send
        self._entries = entries
        self._clock = clock
        self._pressure = Pressure()
        self._recycles = Recycles()
        self._generation = 0
        self._looked_at = 0.0  # when the newest telemetry came
        self._fresh: int | None = None  # bytes that the child held beside the weights when it was fresh
        self._idle_since: float | None = None
        self._settled_at = 0.0
        self._tiny = 0
        self._ended = 0
        self._reclaims = 0
        self._reclaiming: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._vain_at: int | None = None  # retained bytes that could not be taken back

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                try:
                    self.look()
                except Exception:  # a bug here must not leave the child unwatched from then on
                    log.exception("look_failed")
                    await asyncio.sleep(_AFTER_BUG_S)
                await asyncio.sleep(INTERVAL_S)
        finally:
            if self._reclaiming is not None:
                self._reclaiming.cancel()

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(self._pressure.mark, self._ended, self._reclaims, self._recycles.count)

    def look(self) -> None:
        """One look, and what follows from it."""
        child, now = self._supervisor.snapshot(), self._clock()
        if child.state is not State.READY or child.generation != self._generation:
            self._begin(child)
            return
        gate = self._gate.snapshot()
        reading = _reading(child, now)
        self._tell(child, gate, reading, now)
        if gate.budget.ceiling is None:
            return
        marks = Marks(gate.budget.costs.weights, gate.budget.ceiling)
        self._mark(self._pressure.after(reading, marks), reading)
        # Whoever waits at an idle child waits for nothing that could end: then retained memory is taken back.
        self._gate.hold(self._pressure.mark is not Mark.NONE and (gate.running > 0 or reading.stale))
        if self._pressure.mark is Mark.HARD and gate.running:
            self._end(reading, marks, now)
        elif self._wanted(reading, marks, gate, now):
            self._reclaim(marks)

    def _begin(self, child: Snapshot) -> None:
        """Another life of the child: nothing is known of it yet, and nothing is retained."""
        if child.generation != self._generation or self._pressure.mark is not Mark.NONE:
            self._generation, self._pressure = child.generation, Pressure()
            self._idle_since, self._vain_at, self._fresh = None, None, None
            self._gate.set_retained(0)
            self._gate.hold(False)

    def _tell(self, child: Snapshot, gate: GateSnapshot, reading: Reading, now: float) -> None:
        """The gate learns what runs hold, and what is left when nobody runs."""
        busy = gate.running or gate.leaving or child.in_flight
        self._idle_since = None if busy else (self._idle_since or now)
        if reading.fresh is None or child.telemetry is None or child.telemetry.at == self._looked_at:
            return
        self._looked_at = child.telemetry.at
        self._gate.saw(reading.fresh, child.telemetry.peak_bytes)
        # Exact when nobody runs; beside those who run no more than all that there is but what they hold.
        beside_weights = max(0, reading.fresh - gate.budget.costs.weights)
        idle = self._idle_since is not None and self._looked_at > self._idle_since
        if idle and self._fresh is None:
            self._fresh = beside_weights
        self._gate.set_retained(
            beside_weights if idle else min(gate.retained, max(0, beside_weights - gate.holding))
        )
        self._looked.set()

    def _mark(self, pressure: Pressure, reading: Reading) -> None:
        before, self._pressure = self._pressure.mark, pressure
        if pressure.mark is not before:
            level = logging.WARNING if pressure.mark is Mark.HARD else logging.INFO
            extra = {"mark": pressure.mark.name.lower(), "active": reading.active, "stale": reading.stale}
            log.log(level, "memory_mark", extra=extra)

    # At the hard mark

    def _end(self, reading: Reading, marks: Marks, now: float) -> None:
        """End the least costly of those that run; each is told by the contract, or runs again alone."""
        if now - self._settled_at < _SETTLE_S or reading.fresh is None:
            return
        jobs = {job.answer.id: job for job in self._jobs() if job.give_up is not None}
        loads = [_load(jobs[id], need) for id, need, _ in self._gate.running() if id in jobs]
        costs = self._gate.snapshot().budget.costs
        self._settled_at = now
        for id in least_costly(loads, reading.fresh - marks.release, costs.kv):
            give_up = jobs[id].give_up
            if give_up is not None:
                give_up()
                self._ended += 1
                log.warning("ended_for_memory", extra={"answer_id": id, "active": reading.fresh})

    # Taking back what is retained

    def _wanted(self, reading: Reading, marks: Marks, gate: GateSnapshot, now: float) -> bool:
        """Whether what finished sequences hold should be taken back now."""
        if reading.fresh is None or (self._reclaiming is not None and not self._reclaiming.done()):
            return False
        if self._vain_at is not None and gate.retained <= self._vain_at:
            return False  # nothing was kept since it last did not help
        if gate.running == 0:
            since = self._idle_since
            if since is None or self._looked_at <= since:
                return False  # what it keeps is only reckoned with, and a look comes at once
            return gate.lacking > 0 or (reading.fresh > marks.soft and now - since >= _IDLE_S)
        return gate.lacking > 0 and self._is_worth_it(gate)

    def _is_worth_it(self, gate: GateSnapshot) -> bool:
        """Beside others a tiny request joins their padded batch, and what it leaves holds all of that."""
        needs = [need for _, need, _ in self._gate.running()]
        pinned = gate.budget.costs.kv((*needs, _TINY))
        return 2 * self._entries() * pinned <= gate.retained

    def _reclaim(self, marks: Marks) -> None:
        self._reclaims += 1
        self._reclaiming = asyncio.create_task(self._displace(marks), name="reclaim")
        self._reclaiming.add_done_callback(_log_failure)

    async def _displace(self, marks: Marks) -> None:
        going, before = Displacing(self._entries()), await self._active()
        after = before
        while not going.exhausted and self._still_wanted(marks):
            if not await self._push():
                break
            going, after = going.after(_TOGETHER), await self._active()
        log.info("reclaimed", extra={"sent": going.sent, "before": before, "after": after})
        if going.exhausted and self._still_wanted(marks):
            self._vain_at = self._gate.snapshot().retained
            await self._recycle()

    async def _push(self) -> bool:
        for _ in range(_TOGETHER):
            each = tiny(self._tiny)
            self._tiny += 1
            if not await self._send("displace", each.body, abandon=each.abandon):
                return False
        return True

    async def _active(self) -> int:
        """By a look that comes from now on, or as it is after a while."""
        self._looked.clear()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._looked.wait()
        except TimeoutError:
            log.info("no_telemetry", extra={"for_s": _LOOK_S})
        telemetry = self._supervisor.snapshot().telemetry
        return telemetry.active_bytes if telemetry else 0

    def _still_wanted(self, marks: Marks) -> bool:
        """Whether somebody is kept waiting by what is retained, or an idle child holds more than planned."""
        gate = self._gate.snapshot()
        if gate.running:
            return gate.lacking > 0 and self._is_worth_it(gate)
        return gate.lacking > 0 or gate.budget.costs.weights + gate.retained > marks.soft

    async def _recycle(self) -> None:
        """The last means: drained, announced, seldom, and never while the child is at work."""
        gate, now = self._gate.snapshot(), self._clock()
        # What a fresh child holds, too, is the plan's error: another would hold the same.
        helps = gate.retained - (self._fresh or 0) >= max(gate.lacking, 1)
        if gate.running or not helps or not self._recycles.due(now):
            log.warning("memory_stays", extra={"retained": gate.retained, "lacking": gate.lacking})
            return
        self._recycles = self._recycles.after(now)
        await self._supervisor.recycle("idle memory stays above plan")


def _reading(child: Snapshot, now: float) -> Reading:
    inside = child.telemetry
    if inside is None:
        return Reading(None, 0.0, child.memory_bytes)
    return Reading(inside.active_bytes, now - inside.at, child.memory_bytes)


def _load(job: Job, need: Need) -> Load[Need]:
    read = job.seen.progress[0] if job.seen and job.seen.progress else 0
    sent = job.answer.phase is Phase.CONTENT
    read = job.fitted.prompt_tokens if job.stage is Stage.DECODE else read
    return Load(
        job.answer.id, need, need.prompt + need.completion, sent, read, generated=job.completion_tokens
    )


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("reclaim_failed", exc_info=error)
