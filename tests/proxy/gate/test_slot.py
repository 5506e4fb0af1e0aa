"""A slot passes calls on to the gate (test_gate.py); a retained slot ends with its last holder."""

from __future__ import annotations

from unittest.mock import AsyncMock, MagicMock, call

from proxy.gate.slot import NoRoomEver, RetainedSlots, Slot


async def test_every_call_goes_to_the_gate_with_the_slots_id() -> None:
    gate = MagicMock(wait=AsyncMock(return_value=700))
    slot = Slot(gate, "a", alone=True)
    assert slot.reserved is None
    await slot.granted()
    assert slot.reserved == 700
    slot.grew(5)
    slot.end_isolation()
    assert not slot.alone
    slot.requeue(alone=True)
    assert slot.alone
    assert (slot.retain(), slot.position) == (gate.retain.return_value, gate.position.return_value)
    assert gate.mock_calls == [
        call.wait("a"),
        call.grew("a", 5),
        call.end_isolation("a"),
        call.requeue("a", alone=True),
        call.retain("a"),
        call.position("a"),
    ]


def test_growth_is_reported_in_steps_and_from_the_start_after_a_requeue() -> None:
    gate = MagicMock()
    slot = Slot(gate, "a", alone=False)
    for tokens in (0, 1, 20, 40, 41, 100):
        slot.grew(tokens)
    slot.requeue()
    slot.grew(1)
    assert [told.args[1] for told in gate.grew.mock_calls] == [1, 40, 100, 1]


def test_a_request_that_never_fits_is_told_what_does() -> None:
    assert NoRoomEver(900).limit == 900


def test_a_slot_that_is_not_retained_ends_when_its_request_leaves() -> None:
    assert RetainedSlots().leave("a")


def test_a_retained_slot_ends_with_its_last_holder() -> None:
    slots = RetainedSlots()
    slots.retain("a")
    slots.retain("a")
    assert not slots.leave("a")
    assert len(slots) == 1
    assert not slots.release("a")
    assert slots.release("a")
    assert len(slots) == 0


def test_a_slot_that_is_released_before_its_request_leaves_ends_then() -> None:
    slots = RetainedSlots()
    slots.retain("a")
    assert not slots.release("a")
    assert slots.leave("a")
