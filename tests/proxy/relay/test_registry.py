"""The registry of running and recent requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.job import Outcome, Stage
from proxy.relay.registry import Registry
from tests.proxy.api.test_status import job
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand, events_of


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


async def test_a_request_is_among_the_running_until_it_ends_and_then_among_the_recent() -> None:
    registry = Registry()
    one = job("1")
    one.stage = Stage.DECODE
    with registry.track(one):
        assert len(registry) == 1
        assert [shown["answer_id"] for shown in registry.running()] == ["cmpl-1"]
        assert registry.running()[0]["stage"] == "decode"
    one.end(2.0)
    assert registry.running() == []
    assert registry.recent()[0]["answer_id"] == "cmpl-1"


async def test_two_requests_with_one_id_are_both_shown() -> None:
    registry = Registry()
    with registry.track(job("1")), registry.track(job("2")):
        assert [shown["request_id"] for shown in registry.running()] == ["r", "r"]


async def test_recent_requests_are_newest_first_and_bounded() -> None:
    registry = Registry()
    for number in range(200):
        with registry.track(job(str(number))):
            pass
    recent = registry.recent()
    assert len(recent) == 50
    assert recent[0]["answer_id"] == "cmpl-199"


async def test_emptied_returns_when_the_last_request_has_ended() -> None:
    registry = Registry()
    await registry.emptied()
    with registry.track(job("1")):
        waiting = asyncio.create_task(registry.emptied())
        with registry.track(job("2")):
            pass
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_request_ends_by_contract_and_leaves_the_child(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.start()
    assert stand.registry.cancel("chatcmpl-0")
    await call.dropped()
    answer = await asking
    assert answer.status == 503
    assert answer.headers["x-should-retry"] == "false"
    assert (await answer.json())["error"]["code"] == "cancelled"
    assert stand.jobs[0].outcome is Outcome.CANCELLED


async def test_a_stream_that_is_cancelled_after_content(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="x"))
    answer = await asking
    assert stand.registry.cancel("req-0")
    stream = await answer.read()
    assert events_of(stream)[-1]["error"]["code"] == "cancelled"
    assert stream.endswith(b"data: [DONE]\n\n")
