"""Looks at the child's memory ten times a second and acts before it runs out.

The gate is told what each look shows. At the soft mark no request is admitted; at the hard mark those
requests end that lose least by it (pressure.py decides). What finished sequences hold is taken back when a
waiting request needs it (reclaim.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from proxy.job import Job, Stage
from proxy.memory.pressure import Mark, Marks, MemoryReading, PressureState, RunningLoad, least_costly
from proxy.memory.reclaim import Reclaim, Send
from proxy.stream.answer import AnswerPhase
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.sequence import SequenceDemand
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.memory")

#: Seconds between two looks.
INTERVAL_S = 0.1
#: Seconds after ending requests before more are ended: the child frees their memory at its next write to
#: them, which comes a step later while it reads a prompt.
_SETTLE_S = 2.0
#: Seconds without a look after a bug in one.
_AFTER_BUG_S = 5.0


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """For status and metrics: the mark, and how often each action was taken."""

    mark: Mark
    actions: Mapping[str, int]


class MemoryGuard:
    """Watches the child's memory for one gateway. `entries`: as for `Reclaim`."""

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        jobs: Callable[[], Iterable[Job]],
        send: Send,
        *,
        entries: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._jobs = jobs
        self._clock = clock
        self._reclaim = Reclaim(gate, send, supervisor.recycle, entries=entries, clock=clock)
        self._pressure = PressureState()
        self._generation = 0
        self._sampled_at = 0.0  # when the newest telemetry came
        self._idle_since: float | None = None
        self._ended_at = 0.0
        self._ended = 0

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                try:
                    self.look()
                except Exception:  # a bug here must not leave the child unwatched from then on
                    log.exception("memory_check_failed")
                    await asyncio.sleep(_AFTER_BUG_S)
                await asyncio.sleep(INTERVAL_S)
        finally:
            self._reclaim.stop()

    def snapshot(self) -> MemorySnapshot:
        reclaim = self._reclaim
        actions = {"ended": self._ended, "reclaims": reclaim.count, "recycles": reclaim.backoff.count}
        return MemorySnapshot(self._pressure.mark, actions)

    def look(self) -> None:
        """Look once, and act on it."""
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
        # At an idle child there is nothing to wait for: then retained memory is taken back instead.
        self._gate.hold(self._pressure.mark is not Mark.NONE and (gate.running > 0 or reading.stale))
        if self._pressure.mark is Mark.HARD and gate.running:
            self._end(reading, marks, now)
        else:
            self._reclaim.consider(reading, marks, gate, self._idle_s(now))

    def _begin(self, child: ChildSnapshot) -> None:
        """Start over with a new generation: nothing is known of it yet, and nothing is retained."""
        if child.generation != self._generation or self._pressure.mark is not Mark.NONE:
            self._generation, self._pressure = child.generation, PressureState()
            self._idle_since = None
            self._reclaim.begin()
            self._gate.set_retained(0)
            self._gate.hold(False)

    def _tell(self, child: ChildSnapshot, gate: GateSnapshot, reading: MemoryReading, now: float) -> None:
        """Tell the gate and the reclaim what the child holds, and what of it is retained."""
        busy = gate.running or gate.disconnected or child.in_flight
        self._idle_since = None if busy else (self._idle_since or now)
        if reading.fresh is None or child.telemetry is None or child.telemetry.at == self._sampled_at:
            return
        self._sampled_at = child.telemetry.at
        self._gate.observe(reading.fresh, child.telemetry.peak_bytes)
        # Retained memory is exact while nothing runs. Else it is bounded by all that the running do not hold.
        above_weights = max(0, reading.fresh - gate.budget.costs.weights)
        idle = self._idle_since is not None and self._sampled_at > self._idle_since
        retained = above_weights if idle else min(gate.retained, max(0, above_weights - gate.generating_kv))
        self._gate.set_retained(retained)
        self._reclaim.looked(reading.fresh, retained, idle=idle)

    def _idle_s(self, now: float) -> float | None:
        """Seconds that the child has been idle; None if no telemetry came since it is."""
        since = self._idle_since
        return None if since is None or self._sampled_at <= since else now - since

    def _mark(self, pressure: PressureState, reading: MemoryReading) -> None:
        before, self._pressure = self._pressure.mark, pressure
        if pressure.mark is not before:
            level = logging.WARNING if pressure.mark is Mark.HARD else logging.INFO
            extra = {"mark": pressure.mark.name.lower(), "active": reading.active, "stale": reading.stale}
            log.log(level, "memory_pressure", extra=extra)

    def _end(self, reading: MemoryReading, marks: Marks, now: float) -> None:
        """End the requests that lose least by it; each gets an error or is replayed alone."""
        if now - self._ended_at < _SETTLE_S or reading.fresh is None:
            return
        gate = self._gate.snapshot()
        jobs = {job.answer.id: job for job in self._jobs() if job.give_up is not None}
        loads = [_load(jobs[id], demand) for id, demand in gate.demands.items() if id in jobs]
        self._ended_at = now
        for id in least_costly(loads, reading.fresh - marks.release, gate.budget.costs.kv):
            give_up = jobs[id].give_up
            if give_up is not None:
                give_up()
                self._ended += 1
                log.warning("request_ended_for_memory", extra={"answer_id": id, "active": reading.fresh})


def _reading(child: ChildSnapshot, now: float) -> MemoryReading:
    telemetry = child.telemetry
    if telemetry is None:
        return MemoryReading(None, 0.0, child.memory_bytes)
    return MemoryReading(telemetry.active_bytes, now - telemetry.at, child.memory_bytes)


def _load(job: Job, demand: SequenceDemand) -> RunningLoad:
    read = job.seen.progress[0] if job.seen and job.seen.progress else 0
    read = job.fitted.prompt_tokens if job.stage is Stage.DECODE else read
    sent = job.answer.phase is AnswerPhase.CONTENT
    return RunningLoad(job.answer.id, demand, sent, read, job.completion_tokens)
