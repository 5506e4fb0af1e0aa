"""A slot passes calls on to the gate; a retained one ends with its last holder."""

from __future__ import annotations

from unittest.mock import MagicMock, call

from proxy.gate.queue import Ticket
from proxy.gate.slot import NoRoomEver, Slot


def a_slot(gate: MagicMock, *, alone: bool = False) -> Slot:
    return Slot(gate, Ticket("a", "client", arrived=0, deadline=1, alone=alone), on_rise=MagicMock())


async def test_every_call_goes_to_the_gate_with_the_slots_id() -> None:
    gate = MagicMock()
    slot = a_slot(gate, alone=True)
    assert slot.reserved is None
    slot.grant.set_result(700)
    await slot.granted()
    assert slot.reserved == 700
    slot.grew(5)
    slot.end_isolation()
    assert not slot.alone
    slot.requeue(alone=True)
    assert slot.alone
    assert not slot.grant.done()
    slot.retain()()
    assert gate.mock_calls == [
        call.grew("a", 5),
        call.end_isolation("a"),
        call.requeue("a", alone=True),
        call.release(slot),
    ]


async def test_growth_is_reported_in_steps_and_from_the_start_after_a_requeue() -> None:
    gate = MagicMock()
    slot = a_slot(gate)
    for tokens in (0, 1, 20, 40, 41, 100):
        slot.grew(tokens)
    slot.requeue()
    slot.grew(1)
    assert [told.args[1] for told in gate.grew.mock_calls] == [1, 40, 100, 1]


def test_a_request_that_never_fits_is_told_what_does() -> None:
    assert NoRoomEver(900).limit == 900


async def test_each_holder_releases_it_once() -> None:
    gate = MagicMock()
    slot = a_slot(gate)
    holders = []
    gate.release.side_effect = lambda slot: holders.append(slot.holders)
    first, second = slot.retain(), slot.retain()
    assert slot.holders == 2
    first()
    second()
    assert holders == [1, 0]
