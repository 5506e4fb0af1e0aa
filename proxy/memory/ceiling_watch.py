"""Reads the machine again while the child runs: the gate follows the ceiling, and a child that was planned
while memory was scarce is started anew, when it is idle, once there has been more for a while.

core.ceilings decides; planning.py plans.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from proxy.gate.budget import Budget, Need
from proxy.gate.costs import budget
from proxy.gate.snapshot import GateSnapshot
from proxy.memory.ceiling_history import PlanWidth, RecentCeilings, Widening
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.plan import COMPLETION, LEAST_PROMPT, Plan

log = logging.getLogger("mlxguard.ceiling")

INTERVAL_S = 5.0
#: A ceiling that moved less than this is the same, in bytes: free memory is never still.
_STEP = 64 * 2**20


class SupervisorLike(Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def snapshot(self) -> ChildSnapshot: ...

    def recycle(self, reason: str) -> Awaitable[None]: ...


class GateLike(Protocol):
    """What is used of proxy.gate.gate.Gate."""

    def snapshot(self) -> GateSnapshot: ...

    def set_budget(self, budget: Budget) -> None: ...


#: Plans anew for a child that has so many bytes: as the plan that it was started by, and freely.
Replan = Callable[[int], Awaitable[tuple[Plan, Plan] | None]]


class CeilingWatch:
    """One per proxy.

    Args:
        started: the plan that the child was started by.
    """

    def __init__(
        self,
        supervisor: SupervisorLike,
        gate: GateLike,
        started: Callable[[], Plan | None],
        replan: Replan,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._started = started
        self._replan = replan
        self._clock = clock
        self._recent = RecentCeilings()
        self._widening = Widening()
        self._told: tuple[int, int] | None = None  # ceiling and most

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.look()
            except OSError as error:  # the machine did not answer; it will be asked again
                log.warning("ceiling_not_read", extra={"error": str(error)})

    async def look(self) -> None:
        """One look, and what follows from it."""
        child, started = self._supervisor.snapshot(), self._started()
        if child.state is not State.READY or started is None:
            self._told = None
            return
        plans = await self._replan(_bytes_of(child, started))
        if plans is None or self._started() is not started:
            return
        same, free = plans
        self._follow(started, same)
        await self._widen(started, free)

    def _follow(self, started: Plan, now: Plan) -> None:
        before, after = budget(started), budget(now)
        if before.ceiling is None and after.ceiling is None:
            return
        ceiling = now.headroom + now.model.weights
        self._recent = self._recent.after(ceiling, self._clock())
        # A small prompt never hears that it is too long: it waits for memory to come back.
        small = after.costs.peak((Need(LEAST_PROMPT, COMPLETION),), 0)
        told = ceiling, max(self._recent.most, small)
        if self._told is not None and max(abs(a - b) for a, b in zip(told, self._told, strict=True)) < _STEP:
            return
        self._told = told
        # On a machine that is worked on this comes every few seconds; status shows what holds.
        log.debug("ceiling_read", extra={"ceiling": ceiling, "from": now.ceiling.source})
        self._gate.set_budget(replace(after, ceiling=ceiling, most=told[1]))

    async def _widen(self, started: Plan, free: Plan) -> None:
        now, gate = self._clock(), self._gate.snapshot()
        self._widening = self._widening.after(_width(started), _width(free), now)
        if not self._widening.due(now) or gate.running or gate.waiting:
            return
        self._widening = Widening(mended=now)
        log.info("planned_wider", extra={"running": free.running, "max_prompt": free.max_prompt})
        await self._supervisor.recycle("more memory than when it was started")


def _width(plan: Plan) -> PlanWidth:
    return PlanWidth(plan.running, plan.max_prompt)


def _bytes_of(child: ChildSnapshot, plan: Plan) -> int:
    """What the child has of the memory that the ceiling is about."""
    inside = child.telemetry
    if plan.model.traced.backend == "cuda":
        return inside.active_bytes + inside.cache_bytes if inside else 0
    return child.memory_bytes or 0
