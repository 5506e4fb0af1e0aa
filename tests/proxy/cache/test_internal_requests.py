"""Requests of our own: asked at once or not at all, alone beside nobody, and never raising."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from proxy.cache.internal_requests import InternalRequests
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.gate.queue import Ticket
from proxy.upstream.client import Upstream
from tests.support.fake_child import FakeChild, FakeSupervisor
from tests.support.relay_stand import eventually

_TINY = {"prompt": "0001", "max_tokens": 1}


@dataclass
class Stand:
    child: FakeChild
    supervisor: FakeSupervisor = field(default_factory=FakeSupervisor)
    gate: Gate = field(default_factory=lambda: Gate(Budget(max_running=8), max_waiting=8))
    upstream: Upstream = field(default_factory=Upstream)
    told: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own = InternalRequests(
            self.supervisor,
            self.gate,
            self.upstream,
            on_sent=lambda kind, ok, _: self.told.append((kind, ok)),
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
        assert stand.own.out == 0
        await stand.upstream.stop()


async def test_it_is_sent_as_a_completion_and_read_to_its_end(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("displace", _TINY))
    call = await stand.child.call()
    assert call.path == "/v1/completions"
    assert call.json == {**_TINY, "model": "default_model", "stream": False}
    assert stand.own.out == 1
    await call.answer(b"{}")
    assert await sending
    assert stand.told == [("displace", True)]


async def test_a_body_with_messages_is_a_chat(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("cure", {"messages": [], "max_tokens": 1}))
    call = await stand.child.call()
    assert call.path == "/v1/chat/completions"
    await call.answer(b"{}")
    assert await sending


async def test_one_that_is_abandoned_is_reset_at_its_beginning(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("displace", _TINY, abandon=True))
    call = await stand.child.call()
    assert call.json["stream"]
    await call.start()
    assert await sending
    assert await call.was_reset()


async def test_a_refusal_a_reset_and_a_death_are_no_answers(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("cure", _TINY))
    await (await stand.child.call()).refuse(404, "no")
    assert not await sending

    sending = asyncio.create_task(stand.own.send("cure", _TINY))
    (await stand.child.call()).reset()
    assert not await sending

    sending = asyncio.create_task(stand.own.send("cure", _TINY))
    await stand.child.call()
    stand.supervisor.down()
    assert not await sending

    assert not await stand.own.send("cure", _TINY), "nobody serves"
    assert stand.told == [("cure", False)] * 4


async def test_it_is_not_sent_beside_a_suspect(stand: Stand) -> None:
    with stand.gate.enter(stand.suspect()) as place:
        await place.granted()
        assert not await stand.own.send("cure", _TINY)
    assert stand.told == []


async def test_a_suspect_waits_until_it_has_ended(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("cure", _TINY))
    call = await stand.child.call()
    with stand.gate.enter(stand.suspect()) as place:
        assert place.position == 1
        await call.answer(b"{}")
        await place.granted()
        assert await sending


async def test_cancelling_it_leaves_nothing_behind(stand: Stand) -> None:
    sending = asyncio.create_task(stand.own.send("cure", _TINY))
    call = await stand.child.call()
    sending.cancel()
    await eventually(sending.cancelled)
    await call.start()
    await call.dropped()
