"""The guard over a real gate and a child that is a number of bytes: holds, ends, takes back, recycles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.answer import Phase
from proxy.core.budget import Budget
from proxy.core.pressure import LOOKS, STALE_S, Mark
from proxy.gate import Gate
from proxy.job import Job, Stage
from proxy.memory_guard import MemoryGuard
from proxy.place import Place
from supervisor.lifecycle import State
from supervisor.process import Telemetry
from supervisor.runner import Snapshot
from tests.core.law import Padded
from tests.relay_stand import eventually
from tests.test_metrics import ended
from tests.test_status import CRASHED

WEIGHTS = Padded().weights
CEILING = WEIGHTS + 1000


class Stand:
    """Everything moves by `look()`: time goes on by a tenth of a second, and a telemetry sample comes."""

    def __init__(self, *, displaceable: bool = True) -> None:
        self.now = 100.0
        self.active = WEIGHTS
        self.state = State.READY
        self.generation = 1
        self.silent = False
        self.displaceable = displaceable
        self.sent: list[Mapping[str, Any]] = []
        self.recycled: list[str] = []
        self.jobs: list[Job] = []
        self.given_up: list[str] = []
        self.heard_at = 0.0
        self.gate = Gate(
            Budget(max_running=8, ceiling=CEILING, costs=Padded()), max_waiting=8, clock=lambda: self.now
        )
        self.guard = MemoryGuard(
            self, self.gate, lambda: self.jobs, self.send, entries=lambda: 4, clock=lambda: self.now
        )
        self.places = ExitStack()
        self.look(3)

    def snapshot(self) -> Snapshot:
        if not self.silent:
            self.heard_at = self.now
        telemetry = Telemetry(self.active, self.active, 0, 1, self.heard_at)
        return replace(CRASHED, state=self.state, generation=self.generation, telemetry=telemetry)

    async def recycle(self, reason: str) -> None:
        self.recycled.append(reason)
        self.generation, self.active = self.generation + 1, WEIGHTS

    async def send(self, kind: Any, body: Mapping[str, Any], *, abandon: bool = False) -> bool:
        assert kind == "displace"
        self.sent.append({**body, "abandon": abandon})
        if self.displaceable:
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

    def wait_for_place(self, id: str, tokens: int) -> Place:
        ticket = self.gate.ticket(
            id, "c", arrived=self.now, deadline=self.now + 1000, prompt=tokens, max_tokens=1
        )
        return self.places.enter_context(self.gate.enter(ticket))

    def run(self, id: str, tokens: int, *, sent: bool = False) -> Job:
        """A request that was granted and that the child works on."""
        assert self.wait_for_place(id, tokens).position is None
        job = ended(counted=7)
        job.answer.id, job.stage = id, Stage.DECODE
        job.answer.phase = Phase.CONTENT if sent else Phase.NOTHING
        job.give_up = lambda: self.given_up.append(id)
        self.jobs.append(job)
        return job


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand = Stand()
    yield stand
    stand.places.close()


async def test_at_the_soft_mark_nobody_new_is_let_in(stand: Stand) -> None:
    stand.run("a", 100)
    stand.active = CEILING - 10
    stand.look()
    assert stand.wait_for_place("b", 10).position == 1
    assert stand.guard.snapshot().mark is Mark.SOFT
    stand.active = WEIGHTS + 100
    stand.look()
    assert stand.gate.snapshot().running == 2


async def test_stale_telemetry_holds_and_clears_itself(stand: Stand) -> None:
    stand.silent = True
    stand.look(round(STALE_S * 10) + 2)
    assert stand.wait_for_place("a", 10).position == 1
    stand.silent = False
    stand.look()
    assert stand.gate.snapshot().running == 1
    assert not stand.given_up


async def test_at_the_hard_mark_the_cheapest_ends_once(stand: Stand) -> None:
    stand.run("seen", 200, sent=True)
    stand.run("unseen", 200)
    stand.active = CEILING + 1
    stand.look(LOOKS)
    assert stand.given_up == ["unseen"]
    stand.look(5)
    assert stand.given_up == ["unseen"], "what was ended takes a moment to go"


async def test_what_is_retained_makes_room_for_one_that_waits(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    place = stand.wait_for_place("a", 500)
    assert (place.position, stand.gate.lacking()) == (1, 301)
    await stand.look_until(lambda: place.position is None)
    assert 0 < len(stand.sent) <= 6, "no more than is needed"
    assert {body["abandon"] for body in stand.sent} == {True, False}
    assert stand.recycled == []
    assert stand.guard.snapshot().reclaims == 1


async def test_it_ends_when_somebody_was_let_in_meanwhile() -> None:
    stand = Stand(displaceable=False)
    stand.active = WEIGHTS + 950
    stand.look(2)
    place = stand.wait_for_place("a", 500)
    await stand.look_until(lambda: len(stand.sent) == 2)
    stand.gate.set_retained(0)
    assert place.position is None
    stand.gate.set_retained(950)  # as when the gate has lost patience, and let it in all the same
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert len(stand.sent) <= 4
    stand.places.close()


async def test_nothing_is_taken_from_sessions_while_nobody_wants_it(stand: Stand) -> None:
    stand.active = WEIGHTS + 900
    stand.look(2)
    stand.wait_for_place("a", 50)
    for _ in range(100):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_beside_others_only_where_their_padded_rows_are_few(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    stand.run("small", 10)
    place = stand.wait_for_place("large", 400)
    assert place.position == 1
    await stand.look_until(lambda: bool(stand.sent))


async def test_not_beside_one_whose_rows_would_be_pinned(stand: Stand) -> None:
    stand.active = WEIGHTS + 700
    stand.look(2)
    stand.run("large", 200)
    assert stand.wait_for_place("other", 200).position == 1
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_what_stays_is_a_reason_to_recycle_once_and_seldom() -> None:
    stand = Stand(displaceable=False)
    stand.active = WEIGHTS + 800
    stand.look(2)
    place = stand.wait_for_place("a", 500)
    await stand.look_until(lambda: bool(stand.recycled))
    assert len(stand.sent) >= 8
    await stand.look_until(lambda: place.position is None)

    stand.places.close()
    stand.active = WEIGHTS + 800
    stand.look(2)
    stand.wait_for_place("b", 500)
    sent = len(stand.sent)
    await stand.look_until(lambda: len(stand.sent) == sent + 8)
    for _ in range(100):
        stand.look()
        await asyncio.sleep(0)
    assert len(stand.recycled) == 1
    assert len(stand.sent) == sent + 8, "what did not help is not done again for the same"
    stand.places.close()


async def test_what_a_fresh_child_holds_is_no_reason_to_recycle() -> None:
    stand = Stand(displaceable=False)
    stand.active, stand.generation = WEIGHTS + 800, 2
    stand.look(3)
    stand.wait_for_place("a", 500)
    await stand.look_until(lambda: len(stand.sent) >= 8)
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert stand.recycled == []
    stand.places.close()


async def test_a_bug_does_not_end_the_watch(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.memory_guard._AFTER_BUG_S", 0)
    monkeypatch.setattr("proxy.memory_guard.INTERVAL_S", 0)
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        raise ZeroDivisionError

    monkeypatch.setattr(stand.guard, "look", look)
    looking = asyncio.create_task(stand.guard.run())
    await eventually(lambda: len(looks) > 2)
    looking.cancel()
    await asyncio.wait([looking])


async def test_idle_memory_above_plan_is_taken_back_after_a_while(stand: Stand) -> None:
    stand.active = CEILING + 500
    stand.look(10)
    assert stand.sent == []
    stand.now += 30
    await stand.look_until(lambda: stand.active <= CEILING - 100)
    assert stand.recycled == []


async def test_a_new_life_of_the_child_retains_nothing(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    assert stand.gate.snapshot().retained == 800
    stand.state, stand.generation = State.STARTING, 2
    stand.look()
    assert stand.gate.snapshot().retained == 0


async def test_it_looks_until_cancelled_and_leaves_nothing_behind(stand: Stand) -> None:
    looking = asyncio.create_task(stand.guard.run())
    await eventually(lambda: stand.guard.snapshot().reclaims == 0)
    looking.cancel()
    await asyncio.wait([looking])
    assert looking.cancelled()
