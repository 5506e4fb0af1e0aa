"""Looks at the child's memory ten times a second, and sees to it that it does not run out.

What it sees goes to the gate. At the soft mark nobody new is let in; at the hard mark the requests end that
cost least (core/pressure.py decides); what finished sequences hold is taken back when it is in somebody's way
(reclaim.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from proxy.gate.budget import Need
from proxy.gate.snapshot import GateSnapshot
from proxy.job import Job, Stage
from proxy.memory import reclaim
from proxy.memory.pressure import Mark, Marks, MemoryReading, PressureState, RunningLoad, least_costly
from proxy.stream.answer import AnswerPhase
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State

log = logging.getLogger("mlxguard.memory")

INTERVAL_S = 0.1
#: What was ended is still there until the child writes to it next, which in prefill takes a step.
_SETTLE_S = 2.0
_AFTER_BUG_S = 5.0


class GateLike(reclaim.GateLike, Protocol):
    """What is used of proxy.gate.gate.Gate."""

    def hold(self, on: bool) -> None: ...

    def saw(self, held: int, highest: int | None = None) -> None: ...

    def set_retained(self, retained: int) -> None: ...


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
        supervisor: reclaim.SupervisorLike,
        gate: GateLike,
        jobs: Callable[[], Iterable[Job]],
        send: reclaim.Send,
        *,
        entries: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._jobs = jobs
        self._clock = clock
        self._reclaim = reclaim.Reclaim(supervisor, gate, send, entries=entries, clock=clock)
        self._pressure = PressureState()
        self._generation = 0
        self._looked_at = 0.0  # when the newest telemetry came
        self._idle_since: float | None = None
        self._settled_at = 0.0
        self._ended = 0

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
            self._reclaim.stop()

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(self._pressure.mark, self._ended, self._reclaim.count, self._reclaim.recycles)

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
        else:
            self._reclaim.consider(reading, marks, gate, self._idle_s(now))

    def _begin(self, child: ChildSnapshot) -> None:
        """Another life of the child: nothing is known of it yet, and nothing is retained."""
        if child.generation != self._generation or self._pressure.mark is not Mark.NONE:
            self._generation, self._pressure = child.generation, PressureState()
            self._idle_since = None
            self._reclaim.begin()
            self._gate.set_retained(0)
            self._gate.hold(False)

    def _tell(self, child: ChildSnapshot, gate: GateSnapshot, reading: MemoryReading, now: float) -> None:
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
        self._gate.set_retained(
            beside_weights if idle else min(gate.retained, max(0, beside_weights - gate.holding))
        )
        self._reclaim.looked(beside_weights if idle else None)

    def _idle_s(self, now: float) -> float | None:
        """For how long the child has been idle, if a look came since it is."""
        since = self._idle_since
        return None if since is None or self._looked_at <= since else now - since

    def _mark(self, pressure: PressureState, reading: MemoryReading) -> None:
        before, self._pressure = self._pressure.mark, pressure
        if pressure.mark is not before:
            level = logging.WARNING if pressure.mark is Mark.HARD else logging.INFO
            extra = {"mark": pressure.mark.name.lower(), "active": reading.active, "stale": reading.stale}
            log.log(level, "memory_mark", extra=extra)

    # At the hard mark

    def _end(self, reading: MemoryReading, marks: Marks, now: float) -> None:
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


def _reading(child: ChildSnapshot, now: float) -> MemoryReading:
    inside = child.telemetry
    if inside is None:
        return MemoryReading(None, 0.0, child.memory_bytes)
    return MemoryReading(inside.active_bytes, now - inside.at, child.memory_bytes)


def _load(job: Job, need: Need) -> RunningLoad[Need]:
    read = job.seen.progress[0] if job.seen and job.seen.progress else 0
    sent = job.answer.phase is AnswerPhase.CONTENT
    read = job.fitted.prompt_tokens if job.stage is Stage.DECODE else read
    return RunningLoad(
        job.answer.id, need, need.prompt + need.completion, sent, read, generated=job.completion_tokens
    )
