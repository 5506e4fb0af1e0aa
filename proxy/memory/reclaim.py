"""Takes back what finished sequences hold in the child: by tiny requests, and at last by a restart.

core/displacement.py says what is sent and when it has been enough. Nothing is taken from anybody unless it is
in the way of somebody, or an idle child holds more than was planned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from proxy.cache.eviction import Eviction, tiny
from proxy.gate.budget import Need
from proxy.gate.snapshot import GateSnapshot
from proxy.memory.pressure import Marks, MemoryReading
from proxy.memory.restart_backoff import RestartBackoff
from supervisor.aio import Tasks
from supervisor.child.generation import ChildSnapshot

log = logging.getLogger("mlxguard.memory")

#: An idle child that holds more than planned is left alone for so long: somebody may come back for it.
_IDLE_S = 30.0
#: Tiny requests between two looks: one that pushes answers out, one that pushes prompts out.
_TOGETHER = 2
#: Without a new look within this, something else is wrong.
_LOOK_S = 5.0
#: What a tiny request holds beside others, in tokens.
_TINY = Need(prompt=8, completion=1)


class SupervisorLike(Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def snapshot(self) -> ChildSnapshot: ...

    def recycle(self, reason: str) -> Awaitable[None]: ...


class GateLike(Protocol):
    """What is used of proxy.gate.gate.Gate."""

    def snapshot(self) -> GateSnapshot: ...

    def running(self) -> tuple[tuple[str, Need, int], ...]: ...


class Send(Protocol):
    """proxy.cache.internal_requests.InternalRequests.send."""

    def __call__(self, kind: Any, body: Mapping[str, Any], *, abandon: bool = False) -> Awaitable[bool]: ...


class Reclaim:
    """One per memory guard, which tells it of each look.

    Args:
        send: asks the child in the proxy's own name.
        entries: how many sequences the child's prompt cache keeps; 0 while there is no plan.
    """

    def __init__(
        self,
        supervisor: SupervisorLike,
        gate: GateLike,
        send: Send,
        *,
        entries: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._send = send
        self._entries = entries
        self._clock = clock
        self._count = 0
        self._recycles = RestartBackoff()
        self._tiny = 0
        self._tasks = Tasks()
        self._going: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._fresh: int | None = None  # bytes that the child held beside the weights when it was fresh
        self._vain_at: int | None = None  # retained bytes that could not be taken back

    @property
    def count(self) -> int:
        """How often it was begun."""
        return self._count

    @property
    def recycles(self) -> int:
        """Restarts since a day without any."""
        return self._recycles.count

    def begin(self) -> None:
        """Another life of the child."""
        self._fresh, self._vain_at = None, None

    def looked(self, idle: int | None) -> None:
        """Telemetry came. `idle`: bytes beside the weights, if the child has nothing to do."""
        if self._fresh is None:
            self._fresh = idle
        self._looked.set()

    def consider(
        self, reading: MemoryReading, marks: Marks, gate: GateSnapshot, idle_s: float | None
    ) -> None:
        """Begin if there is reason to. `idle_s`: for how long the child was seen to have nothing to do."""
        if not self._wanted(reading, marks, gate, idle_s):
            return
        self._count += 1
        self._going = self._tasks.start(self._displace(marks), "reclaim")

    def stop(self) -> None:
        self._tasks.cancel()

    def _wanted(self, reading: MemoryReading, marks: Marks, gate: GateSnapshot, idle_s: float | None) -> bool:
        if reading.fresh is None or (self._going is not None and not self._going.done()):
            return False
        if self._vain_at is not None and gate.retained <= self._vain_at:
            return False  # nothing was kept since it last did not help
        if gate.running:
            return gate.lacking > 0 and self._is_worth_it(gate)
        if idle_s is None:
            return False  # what it keeps is only reckoned with, and a look comes at once
        return gate.lacking > 0 or (reading.fresh > marks.soft and idle_s >= _IDLE_S)

    def _is_worth_it(self, gate: GateSnapshot) -> bool:
        """Beside others a tiny request joins their padded batch, and what it leaves holds all of that."""
        needs = [need for _, need, _ in self._gate.running()]
        pinned = gate.budget.costs.kv((*needs, _TINY))
        return 2 * self._entries() * pinned <= gate.retained

    async def _displace(self, marks: Marks) -> None:
        going, before = Eviction(self._entries()), await self._active()
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
