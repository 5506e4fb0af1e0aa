"""Disconnected requests: a child that says when it dropped them, one that dies, and one that is silent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.job import Job
from proxy.relay.disconnects import Disconnects
from proxy.relay.drop_detection import ROUND_S, DropEvidence
from proxy.upstream.exchange import AbortedExchange
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
        self.reports: list[tuple[DropEvidence, float]] = []
        self.generation = Generation(1, 1, lambda: None, self.telemetry)
        self.disconnects = Disconnects(
            batched=lambda: batched,
            on_dropped=lambda evidence, took: self.reports.append((evidence, took)),
            clock=lambda: self.now,
        )
        self.slot: Any = SimpleNamespace(retain=lambda: self.release)

    def telemetry(self) -> Telemetry:
        return Telemetry(0, 0, 0, 0, self.idle or 0.0, idle=self.idle is not None)

    def release(self) -> None:
        self.released += 1

    def leave(self, job: object = None, *, step_s: float = 1.0) -> None:
        job = job or A_JOB
        self.disconnects.expect(cast("Job", job), self.slot, self.generation)(AbortedExchange(PORT, step_s))

    async def waits(self) -> None:
        """Some looks later it has still not been released."""
        await asyncio.sleep(0.01)
        assert not self.released


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.relay.disconnects._INTERVAL_S", 0.001)


@pytest.fixture
async def stand() -> Any:
    stand = Stand()
    yield stand
    await stand.disconnects.stop()


async def test_what_ended_by_itself_is_released_at_once(stand: Stand) -> None:
    stand.disconnects.expect(cast("Job", None), stand.slot, stand.generation)(None)
    assert (stand.released, stand.reports) == (1, [])


async def test_it_is_dropped_when_the_child_has_nothing_to_do(stand: Stand) -> None:
    stand.leave()
    await stand.waits()
    stand.now, stand.idle = 3.0, 2.9
    await eventually(lambda: stand.released == 1)
    assert stand.reports == [(DropEvidence.IDLE, 3.0)]


async def test_it_is_dropped_a_step_after_the_child_noticed(stand: Stand) -> None:
    stand.leave(step_s=2.0)
    await asyncio.sleep(0)
    stand.now = 5.0
    stand.generation.connection_dropped(PORT)
    await stand.waits()
    stand.now = 5.0 + ROUND_S + 2.0
    await eventually(lambda: stand.released == 1)
    assert stand.reports == [(DropEvidence.NOTICED, stand.now)]


async def test_a_dead_child_is_done_with_everything(stand: Stand) -> None:
    stand.leave()
    await asyncio.sleep(0)
    stand.generation.died.set_result(cast("Any", None))
    await eventually(lambda: stand.released == 1)
    assert stand.reports == []


async def test_a_silent_child_is_given_time(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.leave()
    stand.now = 1000.0
    await eventually(lambda: stand.released == 1)
    assert stand.reports == [(DropEvidence.TIMEOUT, 1000.0)]
    assert caplog.messages == ["drop_not_detected"]


async def test_a_request_that_runs_again_waits_until_it_is_dropped(stand: Stand) -> None:
    job = cast("Job", A_JOB)
    await stand.disconnects.dropped(job)
    stand.leave()
    waiting = asyncio.create_task(stand.disconnects.dropped(job))
    await stand.waits()
    assert not waiting.done()
    stand.now = 1000.0
    await waiting
    assert stand.released == 1
    await stand.disconnects.dropped(job)


async def test_stopping_releases_every_slot(stand: Stand) -> None:
    stand.leave()
    await stand.disconnects.stop()
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
    stand.generation.connection_dropped(PORT)
    await asyncio.sleep(0.01)
    stand.now = 10.0 + ROUND_S + unread_s - 0.1
    await stand.waits()
    stand.now += 0.2
    await eventually(lambda: stand.released == 1)


@pytest.mark.parametrize(
    ("batched", "sequential", "events", "dropped"),
    [(True, False, 0, True), (True, True, 0, False), (False, False, 0, False), (False, True, 1, True)],
)
async def test_its_slot_is_another_s_unless_its_prompt_is_read_to_the_end_first(
    batched: bool, sequential: bool, events: int, dropped: bool
) -> None:
    stand = Stand(batched=batched)
    stand.slot.dropped = False
    seen = SimpleNamespace(events=events, progress=None)
    stand.leave(SimpleNamespace(seen=seen, asked=None, answer=ANSWER, sequential=sequential))
    assert stand.slot.dropped is dropped
    await stand.disconnects.stop()
