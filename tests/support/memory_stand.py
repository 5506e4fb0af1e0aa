"""A memory guard over a real gate, and a child that is only a number of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.gate.slot import Slot
from proxy.job import Job, Stage
from proxy.memory.guard import MemoryGuard
from proxy.stream.answer import AnswerPhase
from supervisor.child.generation import ChildSnapshot
from supervisor.child.process import Telemetry
from supervisor.lifecycle.state_machine import State
from tests.proxy.api.test_metrics import ended
from tests.proxy.api.test_status import CRASHED
from tests.support.padded_costs import PaddedCosts

WEIGHTS = PaddedCosts().weights
CEILING = WEIGHTS + 1000


class Stand:
    """Each `look()` advances time by a tenth of a second and brings a telemetry sample."""

    def __init__(self, *, evictable: bool = True) -> None:
        self.now = 100.0
        self.active = WEIGHTS
        self.state = State.READY
        self.generation = 1
        self.silent = False
        self.evictable = evictable
        self.sent: list[Mapping[str, Any]] = []
        self.recycled: list[str] = []
        self.jobs: list[Job] = []
        self.given_up: list[str] = []
        self.heard_at = 0.0
        self.gate = Gate(
            Budget(max_running=8, ceiling=CEILING, costs=PaddedCosts()),
            max_waiting=8,
            on_sample=lambda _: None,
            clock=lambda: self.now,
        )
        self.guard = MemoryGuard(
            cast("Any", self),
            self.gate,
            lambda: self.jobs,
            self.send,
            entries=lambda: 4,
            clock=lambda: self.now,
        )
        self.slots = ExitStack()
        self.look(3)

    def snapshot(self) -> ChildSnapshot:
        if not self.silent:
            self.heard_at = self.now
        telemetry = Telemetry(self.active, self.active, 0, 1, self.heard_at)
        return replace(CRASHED, state=self.state, generation=self.generation, telemetry=telemetry)

    async def recycle(self, reason: str) -> None:
        self.recycled.append(reason)
        self.generation, self.active = self.generation + 1, WEIGHTS

    async def send(self, kind: Any, body: Mapping[str, Any], *, abandon: bool = False) -> bool:
        assert kind == "eviction"
        self.sent.append({**body, "abandon": abandon})
        if self.evictable:
            self.active = max(WEIGHTS, self.active - 100)
        return True

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.1
            self.guard.look()

    async def look_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            self.look()
            for _ in range(4):
                await asyncio.sleep(0)
        pytest.fail("never happened")

    def wait_for_slot(self, id: str, tokens: int) -> Slot:
        ticket = self.gate.ticket(
            id, "c", arrived=self.now, deadline=self.now + 1000, prompt=tokens, max_tokens=1
        )
        return self.slots.enter_context(self.gate.enter(ticket))

    def run(self, id: str, tokens: int, *, sent: bool = False) -> Job:
        """A granted request that the child works on."""
        assert self.gate.position(self.wait_for_slot(id, tokens).id) is None
        job = ended(counted=7)
        job.answer.id, job.stage = id, Stage.DECODE
        job.answer.phase = AnswerPhase.CONTENT if sent else AnswerPhase.NOTHING
        job.give_up = lambda: self.given_up.append(id)
        self.jobs.append(job)
        return job
