"""Internal requests: sent at once or not at all, never next to an isolated suspect, and never raising."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from proxy.cache.client import CacheClient
from proxy.cache.internal_requests import InternalRequests
from proxy.cache.search_times import SearchTimes
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.gate.queue import Ticket
from proxy.prompt.counter import TokenCounter
from proxy.upstream.client import Upstream
from tests.proxy.cache.test_client import Worker, prediction
from tests.support.fake_child import FakeChild, FakeSupervisor
from tests.support.relay_stand import eventually

_FILLER = {"prompt": "0001", "max_tokens": 1}


@dataclass
class Stand:
    child: FakeChild
    supervisor: FakeSupervisor = field(default_factory=FakeSupervisor)
    gate: Gate = field(
        default_factory=lambda: Gate(Budget(max_running=8), max_waiting=8, on_sample=lambda _: None)
    )
    upstream: Upstream = field(default_factory=Upstream)
    reports: list[tuple[str, bool]] = field(default_factory=list)
    worker: Worker = field(default_factory=Worker)

    def __post_init__(self) -> None:
        self.requests = InternalRequests(
            self.supervisor,
            self.gate,
            self.upstream,
            CacheClient(cast("TokenCounter", self.worker), SearchTimes(lambda _: None)),
            on_sent=lambda kind, ok, _: self.reports.append((kind, ok)),
        )

    def suspect(self) -> Ticket:
        now = asyncio.get_running_loop().time()
        return Ticket("suspect", "client", arrived=now, deadline=now + 60, alone=True)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with FakeChild() as child:
        stand = Stand(child)
        stand.supervisor.up(child)
        yield stand
        assert stand.requests.out == 0
        await stand.upstream.stop()


async def test_it_is_sent_as_a_completion_and_read_to_its_end(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("eviction", _FILLER))
    call = await stand.child.call()
    assert call.path == "/v1/completions"
    assert call.json == {**_FILLER, "model": "default_model", "stream": False}
    assert stand.requests.out == 1
    await call.answer(b"{}")
    assert await sending
    assert stand.reports == [("eviction", True)]


async def test_a_body_with_messages_is_a_chat(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("search_shortcut", {"messages": [], "max_tokens": 1}))
    call = await stand.child.call()
    assert call.path == "/v1/chat/completions"
    await call.answer(b"{}")
    assert await sending


async def test_one_that_is_abandoned_is_reset_at_its_beginning(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("eviction", _FILLER, abandon=True))
    call = await stand.child.call()
    assert call.json["stream"]
    await call.start()
    assert await sending
    assert await call.was_reset()


async def test_a_refusal_a_reset_and_a_death_are_no_answers(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("search_shortcut", _FILLER))
    await (await stand.child.call()).refuse(404, "no")
    assert not await sending

    sending = asyncio.create_task(stand.requests.send("search_shortcut", _FILLER))
    (await stand.child.call()).reset()
    assert not await sending

    sending = asyncio.create_task(stand.requests.send("search_shortcut", _FILLER))
    await stand.child.call()
    stand.supervisor.down()
    assert not await sending

    assert not await stand.requests.send("search_shortcut", _FILLER), "nobody serves"
    assert stand.reports == [("search_shortcut", False)] * 4


async def test_it_is_not_sent_while_a_suspect_is_isolated(stand: Stand) -> None:
    with stand.gate.enter(stand.suspect()) as place:
        await place.granted()
        assert not await stand.requests.send("search_shortcut", _FILLER)
    assert stand.reports == []


async def test_a_suspect_waits_until_it_has_ended(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("search_shortcut", _FILLER))
    call = await stand.child.call()
    with stand.gate.enter(stand.suspect()) as place:
        assert stand.gate.position("suspect") == 1
        await call.answer(b"{}")
        await place.granted()
        assert await sending


async def test_cancelling_it_leaves_nothing_behind(stand: Stand) -> None:
    sending = asyncio.create_task(stand.requests.send("search_shortcut", _FILLER))
    call = await stand.child.call()
    sending.cancel()
    await eventually(sending.cancelled)
    await call.start()
    await call.dropped()


@pytest.mark.parametrize("abandon", [True, False])
async def test_one_that_changes_the_cache_is_followed(stand: Stand, abandon: bool) -> None:
    sending = asyncio.create_task(stand.requests.send("eviction", _FILLER, abandon=abandon))
    call = await stand.child.call()
    await call.start()
    await call.finish()
    assert await sending
    assert stand.worker.asked == ["predict", "asked", "read", "ended"]
    assert stand.worker.fields[-1]["complete"] is not abandon

    chat = {"messages": [{"role": "user", "content": "1"}]}
    sending = asyncio.create_task(stand.requests.send("eviction", chat, abandon=abandon))
    await (await stand.child.call()).refuse(404, "no")
    assert not await sending
    assert stand.worker.asked[4:] == ["predict", "asked", "ended"]


async def test_one_that_is_an_exact_hit_itself_is_not_sent(stand: Stand) -> None:
    stand.worker.answers["asked"] = prediction(exact_hit=True)
    assert not await stand.requests.send("eviction", _FILLER)
    assert stand.reports == []
