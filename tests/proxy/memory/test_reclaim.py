"""What finished sequences hold is taken back where it is in the way, by tiny requests, then by a recycle."""

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


async def test_what_is_retained_makes_room_for_one_that_waits(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    assert (slot.position, stand.gate.snapshot().eviction_needed) == (1, 301)
    await stand.look_until(lambda: slot.position is None)
    assert 0 < len(stand.sent) <= 6, "no more than is needed"
    assert {body["abandon"] for body in stand.sent} == {True, False}
    assert stand.recycled == []
    assert stand.guard.snapshot().reclaims == 1


async def test_it_ends_when_somebody_was_let_in_meanwhile() -> None:
    stand = Stand(evictable=False)
    stand.active = WEIGHTS + 950
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    await stand.look_until(lambda: len(stand.sent) == 2)
    stand.gate.set_retained(0)
    assert slot.position is None
    stand.gate.set_retained(950)  # as when the gate has lost patience, and let it in all the same
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert len(stand.sent) <= 4
    stand.slots.close()


async def test_nothing_is_taken_from_sessions_while_nobody_wants_it(stand: Stand) -> None:
    stand.active = WEIGHTS + 900
    stand.look(2)
    stand.wait_for_slot("a", 50)
    for _ in range(100):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_beside_others_only_where_their_padded_rows_are_few(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    stand.run("small", 10)
    slot = stand.wait_for_slot("large", 400)
    assert slot.position == 1
    await stand.look_until(lambda: bool(stand.sent))


async def test_not_beside_one_whose_rows_would_be_pinned(stand: Stand) -> None:
    stand.active = WEIGHTS + 700
    stand.look(2)
    stand.run("large", 200)
    assert stand.wait_for_slot("other", 200).position == 1
    for _ in range(50):
        stand.look()
        await asyncio.sleep(0)
    assert stand.sent == []


async def test_what_stays_is_a_reason_to_recycle_once_and_seldom() -> None:
    stand = Stand(evictable=False)
    stand.active = WEIGHTS + 800
    stand.look(2)
    slot = stand.wait_for_slot("a", 500)
    await stand.look_until(lambda: bool(stand.recycled))
    assert len(stand.sent) >= 8
    await stand.look_until(lambda: slot.position is None)

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
    assert len(stand.sent) == sent + 8, "what did not help is not done again for the same"
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
