"""A place passes on what is done with it; what follows is the gate's (test_gate.py)."""

from __future__ import annotations

from unittest.mock import AsyncMock, MagicMock, call

from proxy.gate.slot import NoRoomEver, Slot


async def test_all_goes_to_the_gate_under_its_id() -> None:
    gate = MagicMock(wait=AsyncMock(return_value=700))
    place = Slot(gate, "a", alone=True)
    assert place.reserved is None
    await place.granted()
    assert place.reserved == 700
    place.grew(5)
    place.join()
    assert not place.alone
    place.again(alone=True)
    assert place.alone
    assert (place.keep(), place.position) == (gate.keep.return_value, gate.position.return_value)
    assert gate.mock_calls == [
        call.wait("a"),
        call.grew("a", 5),
        call.join("a"),
        call.requeue("a", alone=True),
        call.keep("a"),
        call.position("a"),
    ]


def test_growth_is_told_in_steps_and_anew_after_a_restart() -> None:
    gate = MagicMock()
    place = Slot(gate, "a", alone=False)
    for tokens in (0, 1, 20, 40, 41, 100):
        place.grew(tokens)
    place.again()
    place.grew(1)
    assert [told.args[1] for told in gate.grew.mock_calls] == [1, 40, 100, 1]


def test_who_never_fits_is_told_what_does() -> None:
    assert NoRoomEver(900).limit == 900
