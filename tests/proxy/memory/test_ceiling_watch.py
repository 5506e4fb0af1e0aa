"""The machine is read again while the child runs. Plans are real; machine, child and clock are not."""

from __future__ import annotations

from typing import Any, cast

import pytest

from proxy.gate.costs import budget
from proxy.gate.gate import Gate
from proxy.memory.ceiling_history import RECENT_S, WIDER_S
from proxy.memory.ceiling_watch import CeilingWatch
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.plan import COMPLETION, LEAST_PROMPT, Plan
from supervisor.memory_model.sequence import SequenceDemand
from tests.proxy.gate.test_costs import MODEL, a_plan
from tests.support.fake_child import FakeSupervisor

ROOM = 200_000_000


class Stand:
    """A machine with `room` bytes beside the weights; the child was started when there were `started`."""

    def __init__(self, started: int = ROOM) -> None:
        self.now = 1000.0
        self.room = started
        self.started: Plan | None = a_plan(started)
        self.state = State.READY
        self.recycled: list[str] = []
        self.asked: list[int] = []
        assert self.started is not None
        self.gate = Gate(
            budget(self.started), max_waiting=8, on_sample=lambda _: None, clock=lambda: self.now
        )
        self.watch = CeilingWatch(
            cast("Any", self), self.gate, lambda: self.started, self.replan, clock=lambda: self.now
        )

    def snapshot(self) -> ChildSnapshot:
        return FakeSupervisor()._snapshot(self.state)

    async def recycle(self, reason: str) -> None:
        self.recycled.append(reason)

    async def replan(self, child: int) -> tuple[Plan, Plan] | None:
        self.asked.append(child)
        return (a_plan(self.room), a_plan(self.room)) if self.room else None

    async def look(self, after_s: float = 0.0) -> int | None:
        self.now += after_s
        await self.watch.look()
        return self.gate.snapshot().budget.ceiling


async def test_the_gate_follows_the_ceiling_down_and_up() -> None:
    stand = Stand()
    assert await stand.look() == MODEL.weights + ROOM
    stand.room = ROOM // 2
    assert await stand.look(5) == MODEL.weights + ROOM // 2
    assert stand.gate.snapshot().budget.recent_ceiling == MODEL.weights + ROOM, "it may come back soon"
    stand.room = ROOM
    assert await stand.look(5) == MODEL.weights + ROOM
    assert not stand.recycled


async def test_memory_that_does_not_come_back_is_not_waited_for() -> None:
    stand = Stand()
    await stand.look()
    stand.room = ROOM // 2
    await stand.look(5)
    await stand.look(RECENT_S + 1)
    assert stand.gate.snapshot().budget.recent_ceiling == MODEL.weights + ROOM // 2


async def test_a_small_prompt_is_never_refused_as_too_long() -> None:
    """Not even when another program has taken everything: it waits."""
    stand = Stand()
    await stand.look()
    stand.room = 1
    await stand.look(5)
    await stand.look(RECENT_S + 1)
    shared = stand.gate.snapshot().budget
    assert shared.ceiling == MODEL.weights + 1
    assert shared.ever_fits(SequenceDemand(LEAST_PROMPT, COMPLETION))
    assert not shared.has_room((), SequenceDemand(LEAST_PROMPT, COMPLETION), 0)


async def test_small_changes_of_free_memory_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "mlxguard.ceiling")
    stand = Stand()
    await stand.look()
    stand.room += 1_000_000
    await stand.look(5)
    assert caplog.messages == ["ceiling_read"]


async def test_a_child_that_was_planned_while_memory_was_scarce_is_restarted_when_idle() -> None:
    stand = Stand(started=ROOM // 10)
    await stand.look()
    stand.room = 10 * ROOM
    await stand.look(5)
    await stand.look(WIDER_S - 1)
    assert not stand.recycled
    ticket = stand.gate.ticket("a", "c", arrived=stand.now, deadline=9e9, prompt=1, max_tokens=1)
    with stand.gate.enter(ticket):
        await stand.look(2)
        assert not stand.recycled, "a request is being served"
    await stand.look(1)
    assert len(stand.recycled) == 1
    await stand.look(WIDER_S)
    assert len(stand.recycled) == 1, "not again so soon"


async def test_the_machine_is_not_read_for_a_child_that_is_not_ready() -> None:
    stand = Stand()
    stand.state = State.BACKOFF
    await stand.look()
    stand.state, stand.started = State.READY, None
    await stand.look()
    assert not stand.asked


async def test_without_a_new_plan_nothing_changes() -> None:
    stand = Stand()
    stand.room = 0
    assert await stand.look() == MODEL.weights + ROOM
