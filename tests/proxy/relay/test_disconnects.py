"""Seeing requests out: of a child that says when they are gone, of one that dies, of one that is silent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.job import Job
from proxy.relay.disconnects import Disconnects
from proxy.relay.drop_detection import ROUND_S, DropEvidence
from proxy.upstream.exchange import LeftExchange
from supervisor.child.generation import Generation
from supervisor.child.process import Telemetry
from tests.support.relay_stand import eventually

PORT = 4711
ANSWER = SimpleNamespace(id="chatcmpl-1")
A_JOB = SimpleNamespace(seen=None, answer=ANSWER, sequential=False)


class Stand:
    """One request that was broken off; `now` is set by the test."""

    def __init__(self, *, batched: bool = True) -> None:
        self.now = 0.0
        self.idle: float | None = None
        self.released = 0
        self.told: list[tuple[DropEvidence, float]] = []
        self.generation = Generation(1, 1, lambda: None, self.telemetry)
        self.leavings = Disconnects(
            batched=lambda: batched,
            on_gone=lambda gone, took: self.told.append((gone, took)),
            clock=lambda: self.now,
        )
        self.place: Any = SimpleNamespace(keep=lambda: self.release)

    def telemetry(self) -> Telemetry:
        return Telemetry(0, 0, 0, 0, self.idle or 0.0, idle=self.idle is not None)

    def release(self) -> None:
        self.released += 1

    def leave(self, job: object = None, *, step_s: float = 1.0) -> None:
        job = job or A_JOB
        self.leavings.expect(cast("Job", job), self.place, self.generation)(LeftExchange(PORT, step_s))

    async def waits(self) -> None:
        """Some looks later it has still not been released."""
        await asyncio.sleep(0.01)
        assert not self.released


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.relay.disconnects._LOOK_S", 0.001)


@pytest.fixture
async def stand() -> Any:
    stand = Stand()
    yield stand
    await stand.leavings.stop()


async def test_what_ended_by_itself_is_released_at_once(stand: Stand) -> None:
    stand.leavings.expect(cast("Job", None), stand.place, stand.generation)(None)
    assert (stand.released, stand.told) == (1, [])


async def test_it_is_gone_when_the_child_has_nothing_to_do(stand: Stand) -> None:
    stand.leave()
    await stand.waits()
    stand.now, stand.idle = 3.0, 2.9
    await eventually(lambda: stand.released == 1)
    assert stand.told == [(DropEvidence.IDLE, 3.0)]


async def test_it_is_gone_a_step_after_the_child_gave_it_up(stand: Stand) -> None:
    stand.leave(step_s=2.0)
    await asyncio.sleep(0)
    stand.now = 5.0
    stand.generation.gave_up(PORT)
    await stand.waits()
    stand.now = 5.0 + ROUND_S + 2.0
    await eventually(lambda: stand.released == 1)
    assert stand.told == [(DropEvidence.NOTICED, stand.now)]


async def test_a_dead_child_is_done_with_everything(stand: Stand) -> None:
    stand.leave()
    await asyncio.sleep(0)
    stand.generation.died.set_result(cast("Any", None))
    await eventually(lambda: stand.released == 1)
    assert stand.told == []


async def test_a_silent_child_is_given_time(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.leave()
    stand.now = 1000.0
    await eventually(lambda: stand.released == 1)
    assert stand.told == [(DropEvidence.UNSEEN, 1000.0)]
    assert caplog.messages == ["not_seen_leaving"]


async def test_who_is_to_run_again_waits_until_it_is_gone(stand: Stand) -> None:
    job = cast("Job", A_JOB)
    await stand.leavings.gone(job)
    stand.leave()
    waiting = asyncio.create_task(stand.leavings.gone(job))
    await stand.waits()
    assert not waiting.done()
    stand.now = 1000.0
    await waiting
    assert stand.released == 1
    await stand.leavings.gone(job)


async def test_stopping_waits_for_nobody(stand: Stand) -> None:
    stand.leave()
    await stand.leavings.stop()
    assert stand.released == 1


def reading(*, sequential: bool, events: int = 0) -> Any:
    """One that has read a quarter of its prompt in ten seconds, when it is 10 s."""
    seen = SimpleNamespace(events=events, progress=(100, 400))
    return SimpleNamespace(seen=seen, asked=0.0, sequential=sequential, answer=ANSWER)


@pytest.mark.parametrize(
    ("batched", "sequential", "events", "unread_s"),
    [(True, True, 0, 30.0), (False, False, 0, 30.0), (True, False, 0, 0.0), (True, True, 1, 0.0)],
)
async def test_a_sequential_one_is_known_to_read_on(
    batched: bool, sequential: bool, events: int, unread_s: float
) -> None:
    stand = Stand(batched=batched)
    stand.now = 10.0
    stand.leave(reading(sequential=sequential, events=events), step_s=0.0)
    await asyncio.sleep(0)
    stand.generation.gave_up(PORT)
    await asyncio.sleep(0.01)
    stand.now = 10.0 + ROUND_S + unread_s - 0.1
    await stand.waits()
    stand.now += 0.2
    await eventually(lambda: stand.released == 1)


@pytest.mark.parametrize(
    ("batched", "sequential", "events", "dropped"),
    [(True, False, 0, True), (True, True, 0, False), (False, False, 0, False), (False, True, 1, True)],
)
async def test_its_place_is_another_s_unless_its_prompt_is_read_to_the_end_first(
    batched: bool, sequential: bool, events: int, dropped: bool
) -> None:
    stand = Stand(batched=batched)
    stand.place.dropped = False
    seen = SimpleNamespace(events=events, progress=None)
    stand.leave(SimpleNamespace(seen=seen, asked=None, answer=ANSWER, sequential=sequential))
    assert stand.place.dropped is dropped
    await stand.leavings.stop()
