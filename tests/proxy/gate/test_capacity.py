"""Who runs and what is reserved. Who is let in when is in test_admission.py."""

from __future__ import annotations

from dataclasses import replace

from proxy.gate.budget import Budget
from proxy.gate.capacity import Capacity
from proxy.gate.queue import Ticket
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.law import Padded


def a_capacity() -> Capacity:
    return Capacity(Budget(max_running=2, ceiling=1010, costs=Padded()))


def ticket(id: str, prompt: int, completion: int = 0, *, alone: bool = False) -> Ticket:
    demand, least = SequenceDemand(prompt, completion), SequenceDemand(prompt, min(completion, 10))
    return Ticket(id, "c", 0, 9, demand, least, max_tokens=500, alone=alone)


def test_what_is_reserved_for_one_is_what_the_peak_of_all_rises_by() -> None:
    capacity = a_capacity()
    assert capacity.admit(ticket("long", 400)) == 400
    assert capacity.admit(ticket("short", 5)) == 400, "it is padded to the longest"
    assert capacity.reserved == 810
    assert capacity.release("long") == ticket("long", 400)
    assert capacity.release("long") is None
    assert capacity.reserved == 15


def test_one_alone_reserves_all_that_it_may_need_only_where_there_is_room() -> None:
    capacity = a_capacity()
    assert capacity.fits(ticket("a", 900, 500))
    assert capacity.admit(ticket("a", 900, 500)) == 910
    capacity.grow("a", 11)
    assert capacity.running[0].demand.completion == 11 + 256 + 2
    capacity.grow("a", 400)
    assert capacity.running[0].demand.completion == 500, "more than max_tokens it will not be"


def test_places() -> None:
    capacity, one, two = a_capacity(), ticket("a", 1), ticket("b", 1)
    capacity.held = True
    assert not capacity.has_slot(one)
    capacity.held = False
    capacity.admit(one)
    assert capacity.has_slot(two)
    assert not capacity.has_slot(replace(two, alone=True))
    capacity.admit(two)
    assert not capacity.has_slot(ticket("c", 1)), "two places are all there are"


def test_who_is_dropped_soon_leaves_its_place_and_keeps_what_it_holds() -> None:
    capacity = Capacity(Budget(max_running=1, ceiling=1010, costs=Padded()))
    capacity.admit(ticket("a", 300))
    capacity.free_slot("a")
    capacity.free_slot("nobody")
    assert capacity.has_slot(ticket("b", 300))
    assert not capacity.has_slot(ticket("b", 300, alone=True))
    assert capacity.fits(ticket("b", 300))
    assert not capacity.fits(ticket("b", 600)), "600 would be there twice"
    capacity.admit(ticket("b", 300))
    assert not capacity.has_slot(ticket("c", 1))
    capacity.release("a")
    assert not capacity.has_slot(ticket("c", 1)), "the place is b's"


def test_no_more_are_on_their_way_out_than_there_are_places() -> None:
    capacity = Capacity(Budget(max_running=1, costs=Padded()))
    for id in "ab":
        capacity.admit(ticket(id, 1))
        capacity.free_slot(id)
    assert not capacity.has_slot(ticket("c", 1))
    capacity.release("a")
    assert capacity.has_slot(ticket("c", 1))


def test_a_suspect_has_the_child_for_itself_until_it_is_cleared() -> None:
    capacity = a_capacity()
    capacity.internal_requests = 1
    assert not capacity.has_slot(ticket("a", 1, alone=True))
    capacity.internal_requests = 0
    capacity.admit(ticket("a", 1, alone=True))
    assert capacity.isolated
    assert not capacity.has_slot(ticket("b", 1))
    capacity.end_isolation("a")
    capacity.end_isolation("nobody")
    assert capacity.has_slot(ticket("b", 1))


def test_the_snapshot_of_the_last_goes_when_the_next_joins() -> None:
    capacity = Capacity(Budget(max_running=2, ceiling=1010, costs=Padded(snapshots=True)))
    capacity.admit(ticket("a", 400))
    capacity.release("a")
    capacity.retained = 700
    assert capacity.eviction_needed(ticket("b", 750)) == 50, "300 of 700 will stay"
    assert capacity.fits(ticket("b", 700))
    capacity.admit(ticket("b", 700))
    assert capacity.retained == 300
    capacity.release("b")
    capacity.retained = 100
    assert capacity.fits(ticket("c", 1000)), "never less than nothing stays"


def test_what_those_who_generate_hold_at_least() -> None:
    capacity = a_capacity()
    capacity.admit(ticket("a", 400, 100))
    assert capacity.generating_kv == 0, "how much of its prompt was read is not known here"
    capacity.grow("a", 30)
    assert capacity.generating_kv == 430
    assert capacity.running[0].demand.completion == 100, "as was foretold"


def test_what_is_lacking_is_what_finished_sequences_hold_too_much_of() -> None:
    capacity = a_capacity()
    capacity.retained = 300
    assert capacity.eviction_needed(ticket("a", 800)) == 100
    assert capacity.would_fit(ticket("a", 800))
    assert capacity.eviction_needed(ticket("a", 700)) == 0
    assert capacity.eviction_needed(ticket("a", 1100)) == 0, "that would not help"


def test_one_that_generates_was_read_among_those_that_were_unread_beside_it() -> None:
    capacity = Capacity(Budget(max_running=3, costs=Padded()))
    capacity.admit(ticket("a", 400))
    capacity.admit(ticket("b", 100))
    capacity.grow("a", 0)
    assert capacity.is_unread("a")
    capacity.grow("a", 1)
    capacity.admit(ticket("c", 700))
    assert not capacity.is_unread("a")
    assert not capacity.is_unread("nobody")
    capacity.grow("b", 1)
    assert [(each.demand.read_together, each.demand.longest_prompt) for each in capacity.running] == [
        (2, 400),
        (3, 700),
        (0, 0),
    ]


def test_who_leaves_last_leaves_the_snapshot_of_its_prompt_too() -> None:
    capacity = Capacity(Budget(max_running=2, ceiling=5000, costs=Padded(snapshots=True)))
    capacity.admit(ticket("a", 400, 10))
    capacity.leave_behind("a")
    assert capacity.retained == 410 + 400
    capacity.release("a")
    capacity.admit(ticket("b", 1))
    assert capacity.retained == 410
