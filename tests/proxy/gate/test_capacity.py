"""Who runs and what is reserved. Who is let in when is in test_admission.py."""

from __future__ import annotations

from dataclasses import replace

from proxy.gate.budget import Budget, Need
from proxy.gate.capacity import Capacity
from proxy.gate.queue import Ticket
from tests.support.law import Padded


def a_room() -> Capacity:
    return Capacity(Budget(max_running=2, ceiling=1010, costs=Padded()))


def ticket(id: str, prompt: int, completion: int = 0, *, alone: bool = False) -> Ticket:
    need, least = Need(prompt, completion), Need(prompt, min(completion, 10))
    return Ticket(id, "c", 0, 9, need, least, max_tokens=500, alone=alone)


def test_what_is_reserved_for_one_is_what_the_peak_of_all_rises_by() -> None:
    room = a_room()
    assert room.take(ticket("long", 400)) == 400
    assert room.take(ticket("short", 5)) == 400, "it is padded to the longest"
    assert room.reserved == 810
    assert room.release("long") == ticket("long", 400)
    assert room.release("long") is None
    assert room.reserved == 15


def test_one_alone_reserves_all_that_it_may_need_only_where_there_is_room() -> None:
    room = a_room()
    assert room.fits(ticket("a", 900, 500))
    assert room.take(ticket("a", 900, 500)) == 910
    room.grow("a", 11)
    assert room.running[0].need.completion == 11 + 256 + 2
    room.grow("a", 400)
    assert room.running[0].need.completion == 500, "more than max_tokens it will not be"


def test_places() -> None:
    room, one, two = a_room(), ticket("a", 1), ticket("b", 1)
    room.held = True
    assert not room.has_place(one)
    room.held = False
    room.take(one)
    assert room.has_place(two)
    assert not room.has_place(replace(two, alone=True))
    room.take(two)
    assert not room.has_place(ticket("c", 1)), "two places are all there are"


def test_who_is_dropped_soon_leaves_its_place_and_keeps_what_it_holds() -> None:
    room = Capacity(Budget(max_running=1, ceiling=1010, costs=Padded()))
    room.take(ticket("a", 300))
    room.vacate("a")
    room.vacate("nobody")
    assert room.has_place(ticket("b", 300))
    assert not room.has_place(ticket("b", 300, alone=True))
    assert room.fits(ticket("b", 300))
    assert not room.fits(ticket("b", 600)), "600 would be there twice"
    room.take(ticket("b", 300))
    assert not room.has_place(ticket("c", 1))
    room.release("a")
    assert not room.has_place(ticket("c", 1)), "the place is b's"


def test_no_more_are_on_their_way_out_than_there_are_places() -> None:
    room = Capacity(Budget(max_running=1, costs=Padded()))
    for id in "ab":
        room.take(ticket(id, 1))
        room.vacate(id)
    assert not room.has_place(ticket("c", 1))
    room.release("a")
    assert room.has_place(ticket("c", 1))


def test_a_suspect_has_the_child_for_itself_until_it_is_cleared() -> None:
    room = a_room()
    room.errands = 1
    assert not room.has_place(ticket("a", 1, alone=True))
    room.errands = 0
    room.take(ticket("a", 1, alone=True))
    assert room.solitary
    assert not room.has_place(ticket("b", 1))
    room.join("a")
    room.join("nobody")
    assert room.has_place(ticket("b", 1))


def test_the_snapshot_of_the_last_goes_when_the_next_joins() -> None:
    room = Capacity(Budget(max_running=2, ceiling=1010, costs=Padded(snapshots=True)))
    room.take(ticket("a", 400))
    room.release("a")
    room.retained = 700
    assert room.lacking(ticket("b", 750)) == 50, "300 of 700 will stay"
    assert room.fits(ticket("b", 700))
    room.take(ticket("b", 700))
    assert room.retained == 300
    room.release("b")
    room.retained = 100
    assert room.fits(ticket("c", 1000)), "never less than nothing stays"


def test_what_those_who_generate_hold_at_least() -> None:
    room = a_room()
    room.take(ticket("a", 400, 100))
    assert room.holding == 0, "how much of its prompt was read is not known here"
    room.grow("a", 30)
    assert room.holding == 430
    assert room.running[0].need.completion == 100, "as was foretold"


def test_what_is_lacking_is_what_finished_sequences_hold_too_much_of() -> None:
    room = a_room()
    room.retained = 300
    assert room.lacking(ticket("a", 800)) == 100
    assert room.would_fit(ticket("a", 800))
    assert room.lacking(ticket("a", 700)) == 0
    assert room.lacking(ticket("a", 1100)) == 0, "that would not help"


def test_one_that_generates_was_read_among_those_that_were_unread_beside_it() -> None:
    room = Capacity(Budget(max_running=3, costs=Padded()))
    room.take(ticket("a", 400))
    room.take(ticket("b", 100))
    room.grow("a", 0)
    assert room.is_unread("a")
    room.grow("a", 1)
    room.take(ticket("c", 700))
    assert not room.is_unread("a")
    assert not room.is_unread("nobody")
    room.grow("b", 1)
    assert [(each.need.among, each.need.longest) for each in room.running] == [(2, 400), (3, 700), (0, 0)]


def test_who_leaves_last_leaves_the_snapshot_of_its_prompt_too() -> None:
    room = Capacity(Budget(max_running=2, ceiling=5000, costs=Padded(snapshots=True)))
    room.take(ticket("a", 400, 10))
    room.leave_behind("a")
    assert room.retained == 410 + 400
    room.release("a")
    room.take(ticket("b", 1))
    assert room.retained == 410
