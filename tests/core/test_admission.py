"""Admission as arithmetic over the clock, and as a state machine that never breaks its promises."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from proxy.core.admission import (
    Admission,
    Arrive,
    Budget,
    Effect,
    Errand,
    Grant,
    Join,
    Leave,
    Reason,
    Refuse,
    Requeue,
    SetBudget,
    Ticket,
    Wake,
)


def a_gate(running: int = 1, *, waiting: int = 100, fairness: Literal["key", "none"] = "key") -> Admission:
    return Admission(Budget(max_running=running), max_waiting=waiting, fairness=fairness)


def ticket(id: str, *, client: str = "c", at: float = 0, until: float = 1000, rows: int = 0) -> Ticket:
    return Ticket(id, client, arrived=at, deadline=until, rows=rows)


def arrive(gate: Admission, *tickets: Ticket) -> list[Effect]:
    return [effect for each in tickets for effect in gate.handle(Arrive(each), each.arrived)]


def drained(gate: Admission, first: str) -> list[str]:
    """Ids in the order of their grants when each leaves after it ran."""
    order, running = [], [first]
    while running:
        order.append(running.pop())
        running += [effect.id for effect in gate.handle(Leave(order[-1]), 0) if isinstance(effect, Grant)]
    return order


def test_a_free_place_is_granted_at_once_and_reserved() -> None:
    gate = a_gate(running=2)
    assert arrive(gate, ticket("a"), ticket("b"), ticket("c")) == [Grant("a"), Grant("b")]
    assert (gate.running, gate.waiting) == (2, 1)
    assert gate.handle(Leave("a"), 1) == [Grant("c")]


def test_order_is_arrival() -> None:
    gate = a_gate(fairness="none")
    arrive(gate, ticket("run"), ticket("late", at=2), ticket("early", at=1))
    assert drained(gate, "run") == ["run", "early", "late"]


def test_clients_take_turns() -> None:
    gate = a_gate()
    arrive(gate, *(ticket(f"a{number}", client="a", at=number) for number in range(4)))
    arrive(gate, *(ticket(f"b{number}", client="b", at=10 + number) for number in range(2)))
    assert drained(gate, "a0") == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_replay_goes_before_all_who_came_later() -> None:
    gate = a_gate(running=2)
    arrive(gate, ticket("a", at=1), ticket("b", at=2), ticket("c", client="new", at=3))
    assert gate.handle(Requeue("b"), 4) == [Grant("b")], "nobody slips in between"

    gate.handle(SetBudget(Budget(max_running=0)), 5)
    gate.handle(Requeue("b"), 6)
    gate.handle(Requeue("a"), 6)

    assert gate.handle(SetBudget(Budget(max_running=3)), 7) == [Grant("a"), Grant("b"), Grant("c")]


def test_a_suspect_waits_for_the_innocents_and_then_runs_alone() -> None:
    gate = a_gate(running=8)
    arrive(gate, *(ticket(id, at=at) for at, id in enumerate(("a", "suspect", "b"))))
    assert gate.handle(Requeue("suspect", alone=True), 4) == [], "others run"
    assert gate.handle(Requeue("a"), 4) == [Grant("a")]
    assert arrive(gate, ticket("new", at=5)) == [], "who comes later does not keep a suspect waiting"
    assert [gate.position(id) for id in ("suspect", "new")] == [1, 2]
    assert gate.handle(Leave("a"), 6) == []
    assert gate.handle(Leave("b"), 7) == [Grant("suspect")], "and nobody beside it"
    assert gate.handle(Leave("suspect"), 8) == [Grant("new")]


def test_suspects_run_one_by_one_in_order_of_arrival() -> None:
    gate = a_gate(running=8)
    arrive(gate, *(ticket(id, at=at) for at, id in enumerate("abc")))
    assert gate.handle(Requeue("c", alone=True), 4) == []
    assert gate.handle(Requeue("a", alone=True), 4) == []
    assert gate.handle(Requeue("b", alone=True), 4) == [Grant("a")]
    assert gate.handle(Leave("a"), 5) == [Grant("b")]
    assert gate.handle(Leave("b"), 6) == [Grant("c")]


def test_who_waited_before_a_suspect_came_goes_before_it() -> None:
    gate = a_gate()
    arrive(gate, ticket("run", at=1), ticket("old", at=2))
    suspect = Ticket("suspect", "c", arrived=3, deadline=1000, alone=True)
    assert gate.handle(Arrive(suspect), 3) == []
    arrive(gate, ticket("new", at=4))
    assert drained(gate, "run") == ["run", "old", "suspect", "new"]


def test_a_suspect_that_is_cleared_lets_others_in() -> None:
    gate = a_gate(running=2)
    assert gate.handle(Arrive(Ticket("suspect", "c", arrived=0, deadline=9, alone=True)), 0) != []
    assert arrive(gate, ticket("a", at=1)) == []
    assert gate.handle(Join("suspect"), 2) == [Grant("a")]
    assert gate.handle(Join("nobody"), 2) == []


def test_a_suspect_is_not_let_in_beside_a_request_of_ours() -> None:
    gate = a_gate(running=9)
    gate.handle(Errand(begun=True), 0)
    assert arrive(gate, replace(ticket("suspect"), alone=True)) == []
    assert gate.handle(Errand(begun=False), 0) == [Grant("suspect")]


def test_a_request_of_ours_is_not_let_in_beside_a_suspect() -> None:
    gate = a_gate(running=9)
    arrive(gate, replace(ticket("suspect"), alone=True))
    assert gate.solitary
    with pytest.raises(ValueError, match="alone"):
        gate.handle(Errand(begun=True), 0)
    gate.handle(Join("suspect"), 0)
    assert gate.handle(Errand(begun=True), 0) == []


def test_a_full_queue_refuses_the_one_who_came_last() -> None:
    gate = a_gate(waiting=1)
    assert arrive(gate, ticket("a"), ticket("b"), ticket("c")) == [Grant("a"), Refuse("c", Reason.QUEUE_FULL)]
    assert gate.handle(Leave("a"), 0) == [Grant("b")]


def test_no_queue_still_lets_run() -> None:
    assert arrive(a_gate(waiting=0), ticket("a"), ticket("b")) == [Grant("a"), Refuse("b", Reason.QUEUE_FULL)]


def test_a_replay_has_a_place_also_in_a_full_queue() -> None:
    gate = a_gate(waiting=1)
    arrive(gate, ticket("a"), ticket("b"))
    gate.handle(SetBudget(Budget(max_running=0)), 0)
    assert gate.handle(Requeue("a"), 0) == []
    assert gate.waiting == 2


def test_the_deadline_ends_waiting_not_running() -> None:
    gate = a_gate()
    arrive(gate, ticket("a", until=5), ticket("b", until=20), ticket("c", until=10))
    assert gate.next_deadline() == 10
    assert gate.handle(Wake(), 9.9) == []
    assert gate.handle(Wake(), 10) == [Refuse("c", Reason.DEADLINE)]
    assert gate.next_deadline() == 20
    assert gate.running == 1


def test_who_is_too_late_is_not_granted() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b", until=5), ticket("c"))
    assert gate.handle(Leave("a"), 6) == [Refuse("b", Reason.DEADLINE), Grant("c")]


def test_who_has_no_patience_runs_at_once_or_not_at_all() -> None:
    gate = a_gate()
    assert arrive(gate, ticket("a", until=0)) == [Grant("a")]
    assert arrive(gate, ticket("b", until=0)) == [Refuse("b", Reason.DEADLINE)]
    assert gate.handle(Requeue("a"), 1) == [Refuse("a", Reason.DEADLINE)], "nor is it run again"


def test_leaving_is_one_event_wherever_one_is() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b"), ticket("c"))
    assert gate.handle(Leave("b"), 1) == []
    assert gate.handle(Leave("a"), 1) == [Grant("c")]
    assert gate.handle(Leave("a"), 1) == []
    assert gate.handle(Leave("nobody"), 1) == []


def test_an_impossible_event_changes_nothing() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b"))
    for event in (Arrive(ticket("a")), Arrive(ticket("b")), Requeue("b"), Requeue("nobody")):
        with pytest.raises(ValueError, match="is"):
            gate.handle(event, 1)
    assert (gate.running, gate.waiting) == (1, 1)


def test_positions_are_the_order_of_grants() -> None:
    gate = a_gate()
    arrive(gate, ticket("run", client="a"))
    arrive(gate, *(ticket(f"a{number}", client="a", at=number) for number in range(3)))
    arrive(gate, *(ticket(f"b{number}", client="b", at=number) for number in range(2)))

    places = {id: gate.position(id) for id in ("b0", "a0", "b1", "a1", "a2")}

    assert gate.position("run") is None
    assert sorted(places, key=lambda id: places[id] or 0) == drained(gate, "run")[1:]


def test_a_batch_costs_members_times_the_longest() -> None:
    budget = Budget(max_running=8, max_active_kv_bytes=10_000, bytes_per_row=10)
    gate = Admission(budget, max_waiting=100, fairness="none")
    assert arrive(gate, ticket("long", rows=500), ticket("b", rows=256)) == [Grant("long"), Grant("b")]
    assert arrive(gate, ticket("c", rows=256)) == [], "three times 500 rows are too many"
    assert gate.handle(Leave("long"), 0) == [Grant("c")]


def test_one_alone_always_runs() -> None:
    gate = Admission(Budget(8, max_active_kv_bytes=1, bytes_per_row=10), max_waiting=100, fairness="none")
    assert arrive(gate, ticket("a", rows=256), ticket("b", rows=256)) == [Grant("a")]


def test_ten_thousand_waiting_are_no_trouble() -> None:
    """Bounds the growth, not the machine: quadratic work would take minutes here."""
    gate = Admission(Budget(max_running=1), max_waiting=10_000, fairness="key")
    began = time.process_time()
    arrive(
        gate,
        *(ticket(str(number), client=str(number % 50), at=number, until=1e9) for number in range(10_001)),
    )
    assert gate.waiting == 10_000
    assert len(drained(gate, "0")) == 10_001
    assert time.process_time() - began < 20


class Promises(RuleBasedStateMachine):
    """Never above the budget, each id ends once, nothing starves, all is released at the end."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places = 2
        self.gate = Admission(Budget(max_running=2), max_waiting=4, fairness="key")
        self.tickets: dict[str, Ticket] = {}
        self.running: set[str] = set()
        self.ended: set[str] = set()
        self.alone: set[str] = set()

    def take(self, effects: list[Effect], newcomer: str = "") -> None:
        for effect in effects:
            assert effect.id not in self.ended, "ended twice"
            assert effect.id not in self.running, "granted twice"
            if isinstance(effect, Grant):
                assert effect.id == newcomer or self.now < self.tickets[effect.id].deadline
                self.running.add(effect.id)
            else:
                self.ended.add(effect.id)

    @rule(target=ids, client=st.sampled_from("abc"), patience=st.integers(0, 20), age=st.integers(0, 5))
    def arrives(self, client: str, patience: int, age: int) -> str:
        id = f"{client}{len(self.tickets)}"
        self.tickets[id] = ticket(id, client=client, at=self.now - age, until=self.now + patience)
        self.take(self.gate.handle(Arrive(self.tickets[id]), self.now), newcomer=id)
        return id

    @rule(id=ids)
    def leaves(self, id: str) -> None:
        self.running.discard(id)
        effects = self.gate.handle(Leave(id), self.now)
        assert id not in {effect.id for effect in effects}
        self.ended.add(id)
        self.take(effects)

    @rule(id=ids, alone=st.booleans())
    def is_run_again(self, id: str, alone: bool) -> None:
        if id in self.running:
            self.running.remove(id)
            self.alone.discard(id)
            self.alone |= {id} if alone else set()
            self.take(self.gate.handle(Requeue(id, alone), self.now))

    @rule(id=ids)
    def is_cleared(self, id: str) -> None:
        if id in self.running:
            self.alone.discard(id)
            self.take(self.gate.handle(Join(id), self.now))

    @rule(places=st.integers(0, 4))
    def budget_changes(self, places: int) -> None:
        self.places = places
        self.take(self.gate.handle(SetBudget(Budget(max_running=places)), self.now))

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        end = self.now + seconds
        while (deadline := self.gate.next_deadline()) is not None and deadline <= end:
            self.now = deadline
            self.take(self.gate.handle(Wake(), self.now))
        self.now = end

    @invariant()
    def its_sums_are_ours(self) -> None:
        waiting = set(self.tickets) - self.running - self.ended
        assert self.gate.running == len(self.running)
        assert self.gate.waiting == len(waiting)
        positions = [self.gate.position(id) for id in waiting]
        assert sorted(positions, key=lambda place: place or 0) == list(range(1, len(waiting) + 1))

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        waiting = set(self.tickets) - self.running - self.ended
        held_back = bool(self.running) and bool(self.alone & (self.running | waiting))
        assert not waiting or len(self.running) >= self.places or held_back

    @invariant()
    def nobody_runs_beside_a_suspect(self) -> None:
        assert not self.alone & self.running or len(self.running) == 1

    @invariant()
    def nobody_waits_beyond_the_deadline(self) -> None:
        for id in set(self.tickets) - self.running - self.ended:
            assert self.tickets[id].deadline > self.now

    def teardown(self) -> None:
        """With a place to run in, everybody gets a turn in as many turns as there are tickets."""
        self.budget_changes(1)
        for _ in range(len(self.tickets)):
            for id in list(self.running):
                self.leaves(id)
        assert (self.gate.running, self.gate.waiting) == (0, 0)
        assert self.ended == set(self.tickets)


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
