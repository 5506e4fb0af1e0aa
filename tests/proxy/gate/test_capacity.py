"""Running requests and their reservations. When a request is admitted is in test_admission.py."""

from __future__ import annotations

from dataclasses import replace

from proxy.gate.budget import Budget
from proxy.gate.capacity import Capacity
from proxy.gate.queue import Ticket
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.padded_costs import PaddedCosts


def a_capacity() -> Capacity:
    return Capacity(Budget(max_running=2, ceiling=1010, costs=PaddedCosts()))


def ticket(id: str, prompt: int, completion: int = 0, *, alone: bool = False) -> Ticket:
    demand, least = SequenceDemand(prompt, completion), SequenceDemand(prompt, min(completion, 10))
    return Ticket(id, "c", 0, 9, demand, least, max_tokens=500, alone=alone)


def test_a_request_reserves_what_the_predicted_peak_rises_by() -> None:
    capacity = a_capacity()
    assert capacity.admit(ticket("long", 400)) == 400
    assert capacity.admit(ticket("short", 5)) == 400, "it is padded to the longest"
    assert capacity.reserved == 810
    assert capacity.release("long") == ticket("long", 400)
    assert capacity.release("long") is None
    assert capacity.reserved == 15


def test_a_request_that_runs_alone_reserves_its_whole_demand_only_where_there_is_room() -> None:
    capacity = a_capacity()
    assert capacity.fits(ticket("a", 900, 500))
    assert capacity.admit(ticket("a", 900, 500)) == 910
    capacity.grow("a", 11)
    assert capacity.running[0].demand.completion == 11 + 256 + 2
    capacity.grow("a", 400)
    assert capacity.running[0].demand.completion == 500, "it cannot exceed max_tokens"


def test_slots() -> None:
    capacity, one, two = a_capacity(), ticket("a", 1), ticket("b", 1)
    capacity.held = True
    assert not capacity.has_slot(one)
    capacity.held = False
    capacity.admit(one)
    assert capacity.has_slot(two)
    assert not capacity.has_slot(replace(two, alone=True))
    capacity.admit(two)
    assert not capacity.has_slot(ticket("c", 1)), "there are two slots"


def test_a_request_that_will_be_dropped_frees_its_slot_but_not_its_memory() -> None:
    capacity = Capacity(Budget(max_running=1, ceiling=1010, costs=PaddedCosts()))
    capacity.admit(ticket("a", 300))
    capacity.free_slot("a")
    capacity.free_slot("unknown")
    assert capacity.has_slot(ticket("b", 300))
    assert not capacity.has_slot(ticket("b", 300, alone=True))
    assert capacity.fits(ticket("b", 300))
    assert not capacity.fits(ticket("b", 600)), "600 would be there twice"
    capacity.admit(ticket("b", 300))
    assert not capacity.has_slot(ticket("c", 1))
    capacity.release("a")
    assert not capacity.has_slot(ticket("c", 1)), "the slot is b's"


def test_at_most_as_many_requests_have_freed_their_slot_as_there_are_slots() -> None:
    capacity = Capacity(Budget(max_running=1, costs=PaddedCosts()))
    for id in "ab":
        capacity.admit(ticket(id, 1))
        capacity.free_slot(id)
    assert not capacity.has_slot(ticket("c", 1))
    capacity.release("a")
    assert capacity.has_slot(ticket("c", 1))


def test_a_suspect_has_the_child_to_itself_until_it_is_cleared() -> None:
    capacity = a_capacity()
    capacity.internal_requests = 1
    assert not capacity.has_slot(ticket("a", 1, alone=True))
    capacity.internal_requests = 0
    capacity.admit(ticket("a", 1, alone=True))
    assert capacity.isolated
    assert not capacity.has_slot(ticket("b", 1))
    capacity.end_isolation("a")
    capacity.end_isolation("unknown")
    assert capacity.has_slot(ticket("b", 1))


def test_the_snapshot_of_the_last_request_is_freed_when_the_next_joins() -> None:
    capacity = Capacity(Budget(max_running=2, ceiling=1010, costs=PaddedCosts(snapshots=True)))
    capacity.admit(ticket("a", 400))
    capacity.release("a")
    capacity.retained = 700
    assert capacity.eviction_needed(ticket("b", 750)) == 50, "300 of 700 will stay"
    assert capacity.fits(ticket("b", 700))
    capacity.admit(ticket("b", 700))
    assert capacity.retained == 300
    capacity.release("b")
    capacity.retained = 100
    assert capacity.fits(ticket("c", 1000)), "what stays is never negative"


def test_the_lower_bound_on_the_kv_of_generating_requests() -> None:
    capacity = a_capacity()
    capacity.admit(ticket("a", 400, 100))
    assert capacity.generating_kv == 0, "how much of its prompt was read is not known here"
    capacity.grow("a", 30)
    assert capacity.generating_kv == 430
    assert capacity.running[0].demand.completion == 100, "as predicted"


def test_the_eviction_needed_is_what_exceeds_the_ceiling() -> None:
    capacity = a_capacity()
    capacity.retained = 300
    assert capacity.eviction_needed(ticket("a", 800)) == 100
    assert capacity.would_fit(ticket("a", 800))
    assert capacity.eviction_needed(ticket("a", 700)) == 0
    assert capacity.eviction_needed(ticket("a", 1100)) == 0, "that would not help"


def test_a_generating_request_was_read_together_with_those_unread_beside_it() -> None:
    capacity = Capacity(Budget(max_running=3, costs=PaddedCosts()))
    capacity.admit(ticket("a", 400))
    capacity.admit(ticket("b", 100))
    capacity.grow("a", 0)
    assert capacity.is_unread("a")
    capacity.grow("a", 1)
    capacity.admit(ticket("c", 700))
    assert not capacity.is_unread("a")
    assert not capacity.is_unread("unknown")
    capacity.grow("b", 1)
    assert [(each.demand.read_together, each.demand.longest_prompt) for each in capacity.running] == [
        (2, 400),
        (3, 700),
        (0, 0),
    ]


def test_the_last_request_leaves_the_snapshot_of_its_prompt_behind_too() -> None:
    capacity = Capacity(Budget(max_running=2, ceiling=5000, costs=PaddedCosts(snapshots=True)))
    capacity.admit(ticket("a", 400, 10))
    capacity.leave_behind("a")
    assert capacity.retained == 410 + 400
    capacity.release("a")
    capacity.admit(ticket("b", 1))
    assert capacity.retained == 410
