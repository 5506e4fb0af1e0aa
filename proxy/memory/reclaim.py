"""Takes back what finished sequences hold in the child: by filler requests, at last by a recycle.

proxy/cache/eviction.py says what is sent and when it has been enough. Retained memory is left alone unless a
waiting request needs it, or an idle child holds more than planned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from proxy.cache.eviction import UNKNOWN_ENTRIES, enough, filler
from proxy.cache.eviction_plan import EvictionPlan, FillerKind, plan_eviction
from proxy.gate.gate import Gate
from proxy.gate.residents import KeptSequence
from proxy.gate.snapshot import GateSnapshot, SessionsSnapshot
from proxy.memory.pressure import Marks, MemoryReading
from proxy.memory.restart_backoff import RestartBackoff
from supervisor.aio import Tasks
from supervisor.memory_model.sequence import SequenceDemand

log = logging.getLogger("mlxguard.memory")

#: An idle child that holds more than planned is left alone for this many seconds: its sessions may go on.
_IDLE_S = 30.0
#: Seconds to wait for telemetry between filler requests; it normally comes ten times a second.
_LOOK_S = 5.0
#: The demand of a filler request that joins others.
_FILLER = SequenceDemand(prompt=8, completion=1)


class Send(Protocol):
    """Sends an internal request: proxy.cache.internal_requests.InternalRequests.send."""

    def __call__(self, kind: Any, body: Mapping[str, Any], *, abandon: bool = False) -> Awaitable[bool]: ...


class Reclaim:
    """Takes back retained memory for one memory guard, which reports each look to it.

    Args:
        recycle: restarts the child as planned.
        entries: returns the size of the child's prompt cache, in sequences; 0 while there is no plan.

    Attributes:
        count: how often it was begun.
        backoff: the recycles so far.
    """

    def __init__(
        self,
        gate: Gate,
        send: Send,
        recycle: Callable[[str], Awaitable[None]],
        *,
        entries: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = gate
        self._send = send
        self._recycle = recycle
        self._entries = entries
        self._clock = clock
        self.count = 0
        self.backoff = RestartBackoff()
        self._fillers = 0
        self._tasks = Tasks()
        self._running: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._active = 0
        self._retained = 0
        self._fresh: int | None = None  # bytes above the weights that the child held when it was fresh
        self._failed_at: int | None = None  # retained bytes that could not be taken back

    def begin(self) -> None:
        """Start over with a new generation of the child."""
        self._retained, self._fresh, self._failed_at = 0, None, None

    def looked(self, active: int, retained: int, *, idle: bool) -> None:
        """Telemetry came: the child has `active` bytes in use, `retained` of them by finished sequences."""
        self._active, self._retained = active, retained
        if self._fresh is None and idle:
            self._fresh = retained
        self._looked.set()

    def consider(
        self, reading: MemoryReading, marks: Marks, gate: GateSnapshot, idle_s: float | None
    ) -> None:
        """Begin if there is a reason to. `idle_s`: seconds that the child was seen to have nothing to do."""
        if self._is_wanted(reading, marks, gate, idle_s):
            self.count += 1
            self._running = self._tasks.start(self._evict(marks), "reclaim")

    def stop(self) -> None:
        self._tasks.cancel()

    def _is_wanted(
        self, reading: MemoryReading, marks: Marks, gate: GateSnapshot, idle_s: float | None
    ) -> bool:
        if reading.fresh is None or (self._running is not None and not self._running.done()):
            return False
        if self._failed_at is not None and self._retained <= self._failed_at:
            return False  # nothing was added since the last time, which did not help
        if gate.running:
            return gate.eviction_needed > 0 and self._is_worth_it(gate)
        if idle_s is None:
            return False  # what is retained is only estimated yet, and the next look comes at once
        return gate.eviction_needed > 0 or (reading.fresh > marks.soft and idle_s >= _IDLE_S)

    def _is_worth_it(self, gate: GateSnapshot) -> bool:
        """Whether evicting while requests run frees more than it pins.

        A filler request joins their padded batch, and what it leaves behind holds that whole batch.
        """
        pinned = gate.budget.costs.kv((*gate.demands.values(), _FILLER))
        return 2 * self._entries() * pinned <= self._retained

    async def _evict(self, marks: Marks) -> None:
        entries = self._entries()
        sent, most = 0, enough(entries)
        await self._next_look()
        before, sessions = self._active, self._gate.snapshot().sessions
        dropped: list[KeptSequence] = []
        while sent < most and self._is_still_wanted(marks):
            plan = self._plan(entries, marks)
            if not await self._send_fillers(plan.fillers):
                break
            sent, dropped = sent + len(plan.fillers), [*dropped, *plan.dropped]
            await self._next_look()
        extra = {"sent": sent, "before": before, "after": self._active, **_told(sessions, dropped)}
        log.info("reclaimed", extra=extra)
        if sent >= most and self._is_still_wanted(marks):
            self._failed_at = self._retained
            await self._recycle_if_it_helps()

    def _plan(self, entries: int, marks: Marks) -> EvictionPlan:
        """The fillers to send before the next look: just enough, or one of each kind if nothing is known."""
        gate = self._gate.snapshot()
        costs = gate.budget.costs
        needed = gate.eviction_needed or costs.weights + self._retained - marks.soft
        plan = plan_eviction(
            gate.sessions.kept,
            size=entries or UNKNOWN_ENTRIES,
            needed=needed,
            filler_bytes=costs.kv((*gate.demands.values(), _FILLER)),
        )
        return plan if plan.fillers else EvictionPlan(("assistant", "user"))

    async def _send_fillers(self, kinds: Sequence[FillerKind]) -> bool:
        for kind in kinds:
            each = filler(self._fillers, kind)
            self._fillers += 1
            if not await self._send("eviction", each.body, abandon=each.abandon):
                return False
        return True

    async def _next_look(self) -> None:
        """Wait for telemetry that comes from now on, but not for ever."""
        self._looked.clear()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._looked.wait()
        except TimeoutError:
            log.info("no_telemetry", extra={"for_s": _LOOK_S})

    def _is_still_wanted(self, marks: Marks) -> bool:
        """Whether a request waits for retained memory, or an idle child holds more than planned."""
        gate = self._gate.snapshot()
        if gate.running:
            return gate.eviction_needed > 0 and self._is_worth_it(gate)
        return gate.eviction_needed > 0 or gate.budget.costs.weights + self._retained > marks.soft

    async def _recycle_if_it_helps(self) -> None:
        """The last means: drained, announced, rare, and never while the child is at work."""
        gate, now = self._gate.snapshot(), self._clock()
        # What even a fresh child holds is an error of the plan: another child would hold the same.
        helps = self._retained - (self._fresh or 0) >= max(gate.eviction_needed, 1)
        if gate.running or not helps or not self.backoff.due(now):
            extra = {"retained": self._retained, "eviction_needed": gate.eviction_needed}
            log.warning("memory_not_returned", extra=extra)
            return
        self.backoff = self.backoff.after(now)
        await self._recycle("idle memory stays above plan")


def _told(sessions: SessionsSnapshot, dropped: Sequence[KeptSequence]) -> dict[str, Any]:
    """For the log: whose sequences went, for which request, and what reading them again will cost."""
    gone = [
        f"{each.session}: {each.rows} tokens, {sessions.speed.seconds(0, each.rows):.1f} s to read again"
        for each in dropped
        if each.session
    ]
    id, session = sessions.first or ("", "")
    return {"dropped": gone, "for_answer": id, "for_session": session}
