"""Reads the machine again while the child runs: the gate follows the ceiling.

A child that was planned while memory was scarce is restarted, when it is idle, once there has been more for a
while. ceiling_history.py decides; proxy.planning plans.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.gate.costs import budget
from proxy.gate.gate import Gate
from proxy.memory.ceiling_history import PlanWidth, RecentCeilings, Widening
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.plan import COMPLETION, LEAST_PROMPT, Plan
from supervisor.memory_model.sequence import SequenceDemand
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.ceiling")

#: Seconds between two readings.
INTERVAL_S = 5.0
#: A ceiling that moved by fewer bytes than this counts as unchanged: free memory always moves a little.
_STEP = 64 * 2**20

#: Plans again for a child that now has this many bytes: with the flags of its start, and with free choice.
Replan = Callable[[int], Awaitable[tuple[Plan, Plan] | None]]


class CeilingWatch:
    """Follows the ceiling for one gateway. `started`: returns the plan that the child was started with."""

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
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
        self._told: tuple[int, int] | None = None  # ceiling and recent ceiling, as the gate knows them

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.look()
            except OSError as error:  # the machine did not answer; it will be asked again
                log.warning("ceiling_not_read", extra={"error": str(error)})

    async def look(self) -> None:
        """Read the machine once, and act on it."""
        child, started = self._supervisor.snapshot(), self._started()
        if child.state is not State.READY or started is None:
            self._told = None
            return
        plans = await self._replan(_child_bytes(child, started))
        if plans is None or self._started() is not started:
            return
        same_flags, free = plans
        self._follow(started, same_flags)
        await self._widen(started, free)

    def _follow(self, started: Plan, now: Plan) -> None:
        before, after = budget(started), budget(now)
        if before.ceiling is None and after.ceiling is None:
            return
        ceiling = now.headroom + now.model.weights
        self._recent = self._recent.after(ceiling, self._clock())
        # A small prompt is never refused as too long: it waits for memory to come back.
        small = after.costs.peak((SequenceDemand(LEAST_PROMPT, COMPLETION),), 0)
        told = ceiling, max(self._recent.highest, small)
        if self._told is not None and max(abs(a - b) for a, b in zip(told, self._told, strict=True)) < _STEP:
            return
        self._told = told
        # On a machine in use this happens every few seconds, so it is not logged by default; see the status.
        log.debug("ceiling_read", extra={"ceiling": ceiling, "from": now.ceiling.source})
        self._gate.set_budget(replace(after, ceiling=ceiling, recent_ceiling=told[1]))

    async def _widen(self, started: Plan, free: Plan) -> None:
        now, gate = self._clock(), self._gate.snapshot()
        self._widening = self._widening.after(_width(started), _width(free), now)
        if not self._widening.due(now) or gate.running or gate.waiting:
            return
        self._widening = Widening(restarted_at=now)
        log.info("replanned_wider", extra={"running": free.running, "max_prompt": free.max_prompt})
        await self._supervisor.recycle("more memory than when it was started")


def _width(plan: Plan) -> PlanWidth:
    return PlanWidth(plan.running, plan.max_prompt)


def _child_bytes(child: ChildSnapshot, plan: Plan) -> int:
    """The child's share of the memory that the ceiling limits."""
    telemetry = child.telemetry
    if plan.model.traced.backend == "cuda":
        return telemetry.active_bytes + telemetry.cache_bytes if telemetry else 0
    return child.memory_bytes or 0
