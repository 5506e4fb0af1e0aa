"""Retained memory is taken back where a request needs it: by filler requests, then by a recycle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.memory_stand import CEILING, WEIGHTS, Stand


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand = Stand()
    yield stand
    stand.slots.close()


async def test_retained_memory_makes_room_for_a_waiting_request(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    assert (stand.gate.position(slot.id), stand.gate.snapshot().eviction_needed) == (1, 301)
    await stand.look_until(lambda: stand.gate.position(slot.id) is None)
    assert 0 < len(stand.sent) <= 6, "no more than is needed"
    assert {body["abandon"] for body in stand.sent} == {True, False}
    assert stand.recycled == []
    assert stand.guard.snapshot().actions["reclaims"] == 1


async def test_it_ends_when_the_request_was_admitted_meanwhile() -> None:
    stand = Stand(evictable=False)
    stand.active = WEIGHTS + 950
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    await stand.look_until(lambda: len(stand.sent) == 2)
    stand.gate.set_retained(0)
    assert stand.gate.position(slot.id) is None
    stand.gate.set_retained(950)  # as if the gate had waited long enough, and admitted it all the same
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert len(stand.sent) <= 4
    stand.slots.close()


async def test_retained_memory_is_left_alone_while_no_request_needs_it(stand: Stand) -> None:
    stand.active = WEIGHTS + 900
    stand.look(2)
    stand.wait_for_slot("a", 50)
    for _ in range(100):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_it_evicts_beside_others_where_their_padded_rows_are_few(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    stand.run("small", 10)
    slot = stand.wait_for_slot("large", 400)
    assert stand.gate.position(slot.id) == 1
    await stand.look_until(lambda: bool(stand.sent))


async def test_it_does_not_evict_beside_a_request_whose_rows_would_be_pinned(stand: Stand) -> None:
    stand.active = WEIGHTS + 700
    stand.look(2)
    stand.run("large", 200)
    assert stand.gate.position(stand.wait_for_slot("other", 200).id) == 1
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_memory_that_stays_is_a_reason_to_recycle_once_and_rarely() -> None:
    stand = Stand(evictable=False)
    stand.active = WEIGHTS + 800
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    await stand.look_until(lambda: bool(stand.recycled))
    assert len(stand.sent) >= 8
    await stand.look_until(lambda: stand.gate.position(slot.id) is None)

    stand.slots.close()
    stand.active = WEIGHTS + 800
    stand.look(2)
    stand.wait_for_slot("b", 500)
    sent = len(stand.sent)
    await stand.look_until(lambda: len(stand.sent) == sent + 8)
    for _ in range(100):
        stand.look()
        await asyncio.sleep(0)
    assert len(stand.recycled) == 1
    assert len(stand.sent) == sent + 8, "what did not help is not repeated for the same memory"
    stand.slots.close()


async def test_what_a_fresh_child_holds_is_no_reason_to_recycle() -> None:
    stand = Stand(evictable=False)
    stand.active, stand.generation = WEIGHTS + 800, 2
    stand.look(3)
    stand.wait_for_slot("a", 500)
    await stand.look_until(lambda: len(stand.sent) >= 8)
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert stand.recycled == []
    stand.slots.close()


async def test_idle_memory_above_plan_is_taken_back_after_a_while(stand: Stand) -> None:
    stand.active = CEILING + 500
    stand.look(10)
    assert stand.sent == []
    stand.now += 30
    await stand.look_until(lambda: stand.active <= CEILING - 100)
    assert stand.recycled == []
