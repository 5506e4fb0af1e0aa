"""Admission as arithmetic over the clock, and as a state machine that never breaks its promises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from proxy.gate.admission import (
    MAX_OVERTAKES,
    OVERTAKE_AGE_S,
    RECLAIM_WAIT_S,
    Admission,
    AdmissionPreview,
    Effect,
    Grant,
    Reason,
    Refuse,
)
from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.padded_costs import PaddedCosts


def a_gate(running: int = 1, *, waiting: int = 100) -> Admission:
    return Admission(Budget(max_running=running), max_waiting=waiting)


def a_tight_gate(ceiling: int = 1010, running: int = 8, **more: int) -> Admission:
    """With room for 1,000 tokens under the default ceiling."""
    budget = Budget(max_running=running, ceiling=ceiling, costs=PaddedCosts(), **more)
    return Admission(budget, max_waiting=100)


def ticket(
    id: str,
    *,
    client: str = "c",
    at: float = 0,
    until: float = 1000,
    prompt: int = 0,
    completion: int = 0,
    least: int = 0,
) -> Ticket:
    return Ticket(
        id,
        client,
        arrived=at,
        deadline=until,
        demand=SequenceDemand(prompt, completion),
        least_demand=SequenceDemand(prompt, least),
        max_tokens=65_536,
    )


def arrive(gate: Admission, *tickets: Ticket) -> list[Effect]:
    return [effect for each in tickets for effect in gate.arrive(each, each.arrived)]


def needed(gate: Admission) -> int:
    return gate.snapshot(disconnected=0, corrections=(1.0, 1.0)).eviction_needed


def drained(gate: Admission, first: str) -> list[str]:
    """Ids in the order of their grants when each leaves after it ran."""
    order, running = [], [first]
    while running:
        order.append(running.pop())
        running += [effect.id for effect in gate.leave(order[-1], 0) if isinstance(effect, Grant)]
    return order


def test_a_free_slot_is_granted_and_reserved_at_once() -> None:
    gate = a_gate(running=2)
    assert arrive(gate, ticket("a"), ticket("b"), ticket("c")) == [Grant("a"), Grant("b")]
    assert (len(gate.capacity.running), len(gate.queue)) == (2, 1)
    assert gate.leave("a", 1) == [Grant("c")]


def test_requests_of_one_client_run_in_order_of_arrival() -> None:
    gate = a_gate()
    arrive(gate, ticket("run"), ticket("late", at=2), ticket("early", at=1))
    assert drained(gate, "run") == ["run", "early", "late"]


def test_clients_take_turns() -> None:
    gate = a_gate()
    arrive(gate, *(ticket(f"a{number}", client="a", at=number) for number in range(4)))
    arrive(gate, *(ticket(f"b{number}", client="b", at=10 + number) for number in range(2)))
    assert drained(gate, "a0") == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_replay_runs_before_all_later_requests() -> None:
    gate = a_gate(running=2)
    arrive(gate, ticket("a", at=1), ticket("b", at=2), ticket("c", client="new", at=3))
    assert gate.requeue("b", 4) == [Grant("b")], "no request slips in between"

    gate.set_budget(Budget(max_running=0), 5)
    gate.requeue("b", 6)
    gate.requeue("a", 6)

    assert gate.set_budget(Budget(max_running=3), 7) == [Grant("a"), Grant("b"), Grant("c")]


def test_a_suspect_waits_for_the_other_replays_and_then_runs_alone() -> None:
    gate = a_gate(running=8)
    arrive(gate, *(ticket(id, at=at) for at, id in enumerate(("a", "suspect", "b"))))
    assert gate.requeue("suspect", 4, alone=True) == [], "others run"
    assert gate.requeue("a", 4) == [Grant("a")]
    assert arrive(gate, ticket("new", at=5)) == [], "a later request does not keep a suspect waiting"
    assert [gate.queue.position(id) for id in ("suspect", "new")] == [1, 2]
    assert gate.leave("a", 6) == []
    assert gate.leave("b", 7) == [Grant("suspect")], "and nothing beside it"
    assert gate.leave("suspect", 8) == [Grant("new")]


def test_suspects_run_one_at_a_time_in_order_of_arrival() -> None:
    gate = a_gate(running=8)
    arrive(gate, *(ticket(id, at=at) for at, id in enumerate("abc")))
    assert gate.requeue("c", 4, alone=True) == []
    assert gate.requeue("a", 4, alone=True) == []
    assert gate.requeue("b", 4, alone=True) == [Grant("a")]
    assert gate.leave("a", 5) == [Grant("b")]
    assert gate.leave("b", 6) == [Grant("c")]


def test_a_request_that_arrived_before_a_suspect_runs_before_it() -> None:
    gate = a_gate()
    arrive(gate, ticket("run", at=1), ticket("old", at=2))
    suspect = Ticket("suspect", "c", arrived=3, deadline=1000, alone=True)
    assert gate.arrive(suspect, 3) == []
    arrive(gate, ticket("new", at=4))
    assert drained(gate, "run") == ["run", "old", "suspect", "new"]


def test_others_are_admitted_beside_a_suspect_that_was_cleared() -> None:
    gate = a_gate(running=2)
    assert gate.arrive(Ticket("suspect", "c", arrived=0, deadline=9, alone=True), 0) != []
    assert arrive(gate, ticket("a", at=1)) == []
    assert gate.end_isolation("suspect", 2) == [Grant("a")]
    assert gate.end_isolation("unknown", 2) == []


def test_a_suspect_is_not_admitted_beside_an_internal_request() -> None:
    gate = a_gate(running=9)
    gate.begin_internal_request()
    assert arrive(gate, replace(ticket("suspect"), alone=True)) == []
    assert gate.end_internal_request(0) == [Grant("suspect")]


def test_an_internal_request_does_not_begin_beside_a_suspect() -> None:
    gate = a_gate(running=9)
    arrive(gate, replace(ticket("suspect"), alone=True))
    assert gate.capacity.isolated
    assert not gate.begin_internal_request()
    assert gate.capacity.internal_requests == 0
    gate.end_isolation("suspect", 0)
    assert gate.begin_internal_request()
    assert gate.capacity.internal_requests == 1


def test_a_full_queue_refuses_the_newcomer() -> None:
    gate = a_gate(waiting=1)
    assert arrive(gate, ticket("a"), ticket("b"), ticket("c")) == [Grant("a"), Refuse("c", Reason.QUEUE_FULL)]
    assert gate.leave("a", 0) == [Grant("b")]


def test_without_a_queue_requests_still_run() -> None:
    assert arrive(a_gate(waiting=0), ticket("a"), ticket("b")) == [Grant("a"), Refuse("b", Reason.QUEUE_FULL)]


def test_a_replay_enters_even_a_full_queue() -> None:
    gate = a_gate(waiting=1)
    arrive(gate, ticket("a"), ticket("b"))
    gate.set_budget(Budget(max_running=0), 0)
    assert gate.requeue("a", 0) == []
    assert len(gate.queue) == 2


def test_the_deadline_ends_waiting_but_not_running() -> None:
    gate = a_gate()
    arrive(gate, ticket("a", until=5), ticket("b", until=20), ticket("c", until=10))
    assert gate.next_deadline() == 10
    assert gate.wake(9.9) == []
    assert gate.wake(10) == [Refuse("c", Reason.DEADLINE)]
    assert gate.next_deadline() == 20
    assert len(gate.capacity.running) == 1


def test_a_request_whose_deadline_has_passed_is_not_granted() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b", until=5), ticket("c"))
    assert gate.leave("a", 6) == [Refuse("b", Reason.DEADLINE), Grant("c")]


def test_a_request_that_may_not_wait_runs_at_once_or_is_refused() -> None:
    gate = a_gate()
    assert arrive(gate, ticket("a", until=0)) == [Grant("a")]
    assert arrive(gate, ticket("b", until=0)) == [Refuse("b", Reason.DEADLINE)]
    assert gate.requeue("a", 1) == [Refuse("a", Reason.DEADLINE)], "nor is it replayed"


def test_leaving_is_the_same_for_waiting_running_and_unknown_requests() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b"), ticket("c"))
    assert gate.leave("b", 1) == []
    assert gate.leave("a", 1) == [Grant("c")]
    assert gate.leave("a", 1) == []
    assert gate.leave("unknown", 1) == []


def test_an_impossible_step_changes_nothing() -> None:
    gate = a_gate()
    arrive(gate, ticket("a"), ticket("b"))
    for id in ("a", "b"):
        with pytest.raises(ValueError, match="is here already"):
            gate.arrive(ticket(id), 1)
    for id in ("b", "unknown"):
        with pytest.raises(ValueError, match="is not running"):
            gate.requeue(id, 1)
    assert (len(gate.capacity.running), len(gate.queue)) == (1, 1)


def test_positions_are_the_order_of_grants() -> None:
    gate = a_gate()
    arrive(gate, ticket("run", client="a"))
    arrive(gate, *(ticket(f"a{number}", client="a", at=number) for number in range(3)))
    arrive(gate, *(ticket(f"b{number}", client="b", at=number) for number in range(2)))

    positions = {id: gate.queue.position(id) for id in ("b0", "a0", "b1", "a1", "a2")}

    assert gate.queue.position("run") is None
    assert sorted(positions, key=lambda id: positions[id] or 0) == drained(gate, "run")[1:]


def test_every_request_of_a_batch_costs_as_much_as_the_longest() -> None:
    budget = Budget(max_running=8, max_active_kv_bytes=1000, costs=PaddedCosts())
    gate = Admission(budget, max_waiting=100)
    assert len(arrive(gate, ticket("long", prompt=500), ticket("b", prompt=256))) == 2
    assert arrive(gate, ticket("c", prompt=256)) == [], "three times 500 tokens are too many"
    assert gate.leave("long", 0) == [Grant("c", 256)]


def test_a_request_that_runs_alone_is_not_held_to_the_kv_limit() -> None:
    gate = Admission(Budget(8, max_active_kv_bytes=1, costs=PaddedCosts()), max_waiting=100)
    assert arrive(gate, ticket("a", prompt=256), ticket("b", prompt=256)) == [Grant("a", 256)]


def test_the_predicted_peak_stays_under_the_ceiling() -> None:
    gate = a_tight_gate(ceiling=1010)
    assert arrive(gate, ticket("a", prompt=300, completion=100)) == [Grant("a", 400)]
    assert arrive(gate, ticket("b", prompt=100, completion=500)) == [], "together they come to 1,200"
    assert gate.capacity.reserved == 410
    assert arrive(gate, ticket("c", prompt=500)) == [Grant("c", 600)], "a small one overtakes it"
    assert gate.capacity.reserved == 1010
    assert gate.leave("a", 1) == []
    assert gate.leave("c", 1) == [Grant("b", 600)]


def test_retained_memory_counts() -> None:
    gate = a_tight_gate(ceiling=1010)
    gate.set_retained(500, 0)
    arrive(gate, ticket("a", prompt=200))
    assert arrive(gate, ticket("b", prompt=300)) == []
    assert needed(gate) == 100
    assert gate.set_retained(400, 1) == [Grant("b", 400)]
    assert needed(gate) == 0


def test_what_a_request_leaves_behind_is_estimated_until_it_is_measured() -> None:
    gate = a_tight_gate(ceiling=1010)
    arrive(gate, ticket("a", prompt=100, completion=100), ticket("b", prompt=100, completion=100))
    gate.grew("a", 100, 1)
    assert gate.leave("a", 2, measured=True) == []
    assert (gate.capacity.retained, gate.capacity.reserved) == (400, 10 + 200 + 400)
    assert arrive(gate, ticket("c", prompt=300, completion=50)) == [], "700 and 400 retained are too much"
    assert gate.set_retained(200, 3) == [Grant("c", 500)]


def test_at_an_idle_child_a_request_waits_briefly_for_retained_memory_to_be_taken_back() -> None:
    gate = a_tight_gate(ceiling=1010)
    gate.set_retained(500, 0)
    assert arrive(gate, ticket("a", prompt=700)) == []
    assert (needed(gate), gate.next_deadline()) == (200, RECLAIM_WAIT_S)
    assert gate.wake(RECLAIM_WAIT_S) == [Grant("a", 700)]


def test_a_request_that_never_fits_is_refused_at_once_with_the_longest_prompt_that_does() -> None:
    gate = a_tight_gate(ceiling=1010)
    assert arrive(gate, ticket("a", prompt=950, completion=100, least=100)) == [
        Refuse("a", Reason.NEVER_FITS, 900)
    ]
    assert arrive(gate, ticket("b", prompt=900, completion=100, least=100)) == [Grant("b", 1000)]


def test_a_large_max_tokens_is_no_reason_to_refuse() -> None:
    """Alone, it is admitted by its least demand; the rest is reserved only where there is room."""
    gate = a_tight_gate(ceiling=1010)
    assert arrive(gate, ticket("a", prompt=500, completion=5000, least=100)) == [Grant("a", 600)]


def test_a_request_waits_for_a_ceiling_that_fell_to_rise_again() -> None:
    gate = a_tight_gate(ceiling=1010)
    budget = Budget(8, ceiling=510, recent_ceiling=1010, costs=PaddedCosts())
    gate.set_budget(budget, 0)
    assert arrive(gate, ticket("a", prompt=900)) == [], "it waits"
    assert arrive(gate, ticket("b", prompt=1100)) == [Refuse("b", Reason.NEVER_FITS, 1000)]
    assert gate.set_budget(replace(budget, ceiling=1010), 1) == [Grant("a", 900)]


def test_a_ceiling_that_stays_low_ends_the_wait() -> None:
    gate = a_tight_gate(ceiling=1010)
    budget = Budget(8, ceiling=510, recent_ceiling=1010, costs=PaddedCosts())
    gate.set_budget(budget, 0)
    arrive(gate, ticket("a", prompt=900))
    assert gate.set_budget(replace(budget, recent_ceiling=510), 1) == [Refuse("a", Reason.NEVER_FITS, 500)]


def test_a_reservation_grows_with_what_is_generated() -> None:
    gate = a_tight_gate(ceiling=1010)
    arrive(gate, ticket("a", prompt=100, completion=100))
    gate.grew("a", 100, 1)
    assert gate.capacity.reserved == 210, "as predicted"
    gate.grew("a", 101, 2)
    assert gate.capacity.reserved == 10 + 100 + 101 + 256 + 25
    assert arrive(gate, ticket("b", prompt=50, completion=500)) == [], "there is no room for it now"
    assert gate.grew("unknown", 7, 3) == []


def test_no_request_is_admitted_while_the_gate_is_held() -> None:
    gate = a_tight_gate()
    gate.hold(True, 0)
    assert arrive(gate, ticket("a", prompt=1)) == []
    assert gate.capacity.held
    assert gate.hold(False, 1) == [Grant("a", 1)]


def test_a_large_request_is_overtaken_a_limited_number_of_times() -> None:
    gate = a_tight_gate(ceiling=1010)
    arrive(gate, ticket("run", prompt=100), ticket("large", prompt=600))
    for number in range(MAX_OVERTAKES):
        assert arrive(gate, ticket(str(number), prompt=10)) == [Grant(str(number), 100)]
        gate.leave(str(number), 0)
    assert arrive(gate, ticket("one more", prompt=10)) == []
    assert gate.leave("run", 1) == [Grant("large", 600)]


def test_a_large_request_is_overtaken_for_a_limited_time() -> None:
    gate = a_tight_gate(ceiling=1010)
    arrive(gate, ticket("run", prompt=100), ticket("large", prompt=600))
    assert arrive(gate, ticket("small", prompt=10)) == [Grant("small", 100)]
    assert arrive(gate, ticket("soon", prompt=10, at=OVERTAKE_AGE_S - 1)) == [Grant("soon", 100)]
    assert arrive(gate, ticket("late", prompt=10, at=OVERTAKE_AGE_S)) == []


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 6), st.sampled_from("abc")), max_size=60),
    st.integers(501, 1000),
)
@settings(max_examples=100, deadline=None)
def test_no_request_starves(others: list[tuple[int, int, str]], large: int) -> None:
    """However many small requests come, one each second, a large one is admitted in bounded time."""
    budget = Budget(max_running=8, ceiling=1010, costs=PaddedCosts())
    gate = Admission(budget, max_waiting=1000)
    arrive(gate, ticket("run", prompt=100, client="a"), ticket("large", prompt=large, client="a"))
    ends = {"run": 3}
    overtaken = 0
    for second in range(1, len(others) + 8 * MAX_OVERTAKES):
        effects: list[Effect] = []
        for id in [id for id, end in ends.items() if end <= second]:
            del ends[id]
            effects += gate.leave(id, second)
        if second <= len(others):
            prompt, _, client = others[second - 1]
            newcomer = ticket(str(second), prompt=prompt, client=client, at=second, until=1e9)
            effects += gate.arrive(newcomer, second)
        for effect in effects:
            if effect.id == "large":
                return
            overtaken += 1
            ends[effect.id] = second + others[int(effect.id) - 1][1]
        # Each overtaking request may be of its own client, which gives the other two a turn before it.
        assert overtaken <= 3 * (MAX_OVERTAKES + 1)
    pytest.fail("it was never admitted")


def test_a_preview_changes_nothing() -> None:
    gate = a_tight_gate(ceiling=1010)
    arrive(gate, ticket("run", prompt=100))
    asked = [ticket("", prompt=prompt) for prompt in (400, 600, 1100)]
    assert [gate.preview(each, 0) for each in asked] == [
        AdmissionPreview.NOW,
        AdmissionPreview.QUEUED,
        AdmissionPreview.NEVER_FITS,
    ]
    assert (len(gate.capacity.running), len(gate.queue)) == (1, 0)
    arrive(gate, replace(ticket("suspect"), alone=True))
    assert gate.preview(ticket("", prompt=1), 0) is AdmissionPreview.QUEUED


def test_ten_thousand_waiting_requests_take_no_quadratic_work() -> None:
    """Bounds the growth, not the machine: quadratic work would take minutes here."""
    gate = Admission(Budget(max_running=1), max_waiting=10_000)
    began = time.process_time()
    arrive(
        gate,
        *(ticket(str(number), client=str(number % 50), at=number, until=1e9) for number in range(10_001)),
    )
    assert len(gate.queue) == 10_000
    assert len(drained(gate, "0")) == 10_001
    assert time.process_time() - began < 20


class Promises(RuleBasedStateMachine):
    """Never above the ceiling; each id ends once; nothing starves; everything is released at the end."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.budget = Budget(
            max_running=2, ceiling=1010, recent_ceiling=1010, costs=PaddedCosts(snapshots=True)
        )
        self.gate = Admission(self.budget, max_waiting=4)
        self.tickets: dict[str, Ticket] = {}
        self.running: dict[str, SequenceDemand] = {}
        self.ended: set[str] = set()
        self.alone: set[str] = set()
        self.freed: set[str] = set()
        self.held = False

    def take(self, effects: list[Effect], newcomer: str = "") -> None:
        for effect in effects:
            assert effect.id not in self.ended, "ended twice"
            assert effect.id not in self.running, "granted twice"
            if isinstance(effect, Grant):
                assert effect.id == newcomer or self.now < self.tickets[effect.id].deadline
                self.running[effect.id] = SequenceDemand()
            else:
                self.ended.add(effect.id)
        granted = any(isinstance(effect, Grant) for effect in effects)
        self.running = {each.ticket.id: each.demand for each in self.gate.capacity.running}
        if granted:
            self.check_memory()

    def check_memory(self) -> None:
        """A request was admitted a moment ago."""
        demands, ceiling = [*self.running.values()], self.budget.ceiling
        assert not self.held, "admitted while memory is short"
        assert ceiling is not None
        # Alone, it may have waited long enough for what finished sequences hold.
        retained = self.gate.capacity.retained if len(demands) > 1 else 0
        assert self.budget.costs.peak(demands, retained) <= ceiling, "above the ceiling"

    @rule(
        target=ids,
        client=st.sampled_from("abc"),
        patience=st.integers(0, 200),
        age=st.integers(0, 5),
        prompt=st.sampled_from((10, 100, 400, 900, 1200)),
        completion=st.sampled_from((0, 50, 3000)),
    )
    def arrives(self, client: str, patience: int, age: int, prompt: int, completion: int) -> str:
        id = f"{client}{len(self.tickets)}"
        self.tickets[id] = ticket(
            id,
            client=client,
            at=self.now - age,
            until=self.now + patience,
            prompt=prompt,
            completion=completion,
            least=min(completion, 50),
        )
        self.take(self.gate.arrive(self.tickets[id], self.now), newcomer=id)
        return id

    @rule(id=ids, measured=st.booleans())
    def leaves(self, id: str, measured: bool) -> None:
        effects = self.gate.leave(id, self.now, measured=measured)
        self.running.pop(id, None)
        assert id not in {effect.id for effect in effects}
        self.ended.add(id)
        self.take(effects)

    @rule(id=ids)
    def is_dropped_soon(self, id: str) -> None:
        self.freed |= {id} & set(self.running)
        self.take(self.gate.free_slot(id, self.now))

    @rule(id=ids, alone=st.booleans())
    def is_run_again(self, id: str, alone: bool) -> None:
        if id in self.running:
            del self.running[id]
            self.alone.discard(id)
            self.freed.discard(id)
            self.alone |= {id} if alone else set()
            self.take(self.gate.requeue(id, self.now, alone=alone))

    @rule(id=ids)
    def is_cleared(self, id: str) -> None:
        if id in self.running:
            self.alone.discard(id)
            self.take(self.gate.end_isolation(id, self.now))

    @rule(id=ids, tokens=st.integers(0, 2000))
    def grows(self, id: str, tokens: int) -> None:
        self.take(self.gate.grew(id, tokens, self.now))
        assert id not in self.running or self.running[id].completion >= tokens

    @rule(slots=st.integers(0, 4), ceiling=st.sampled_from((300, 600, 1010)))
    def budget_changes(self, slots: int, ceiling: int) -> None:
        self.budget = replace(self.budget, max_running=slots, ceiling=ceiling)
        self.take(self.gate.set_budget(self.budget, self.now))

    @rule(retained=st.integers(0, 500))
    def sequences_are_retained(self, retained: int) -> None:
        self.take(self.gate.set_retained(retained, self.now))

    @rule(on=st.booleans())
    def memory_runs_short(self, on: bool) -> None:
        self.held = on
        self.take(self.gate.hold(on, self.now))

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        end = self.now + seconds
        while (deadline := self.gate.next_deadline()) is not None and deadline <= end:
            assert deadline >= self.now, "woken for nothing"
            self.now = deadline
            self.take(self.gate.wake(self.now))
        self.now = end

    @property
    def waiting(self) -> set[str]:
        return set(self.tickets) - set(self.running) - self.ended

    @invariant()
    def the_counts_agree(self) -> None:
        assert len(self.gate.capacity.running) == len(self.running)
        assert len(self.gate.queue) == len(self.waiting)
        positions = [self.gate.queue.position(id) for id in self.waiting]
        assert sorted(positions, key=lambda position: position or 0) == list(range(1, len(self.waiting) + 1))

    @invariant()
    def the_reservation_is_the_predicted_peak(self) -> None:
        peak = self.budget.costs.peak([*self.running.values()], self.gate.capacity.retained)
        assert self.gate.capacity.reserved == peak

    @invariant()
    def the_first_does_not_wait_beside_a_free_slot(self) -> None:
        first = next((id for id in self.waiting if self.gate.queue.position(id) == 1), None)
        freed, slots = len(self.freed & set(self.running)), self.budget.max_running
        if first is None or self.held or len(self.running) - freed >= slots or freed > slots:
            return
        if self.running and (first in self.alone or self.alone & set(self.running)):
            return
        ticket = self.tickets[first]
        demand = ticket.demand if self.running else ticket.least_demand
        assert not self.budget.has_room([*self.running.values()], demand, self.gate.capacity.retained)

    @invariant()
    def nothing_runs_beside_a_suspect(self) -> None:
        assert not self.alone & set(self.running) or len(self.running) == 1

    @invariant()
    def nothing_waits_beyond_its_deadline(self) -> None:
        for id in self.waiting:
            assert self.tickets[id].deadline > self.now

    def teardown(self) -> None:
        """With one slot and enough memory, all requests have run after as many turns as there are tickets."""
        self.memory_runs_short(on=False)
        self.sequences_are_retained(0)
        self.budget_changes(1, 1010)
        for _ in range(len(self.tickets)):
            for id in list(self.running):
                self.leaves(id, measured=False)
        assert (len(self.gate.capacity.running), len(self.gate.queue)) == (0, 0)
        assert self.gate.capacity.reserved == PaddedCosts().weights
        assert self.ended == set(self.tickets)


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class _Unread(PaddedCosts):
    """A prompt that is yet to be read costs twice."""

    def peak(self, demands: Sequence[SequenceDemand], retained: int, /) -> int:
        return super().peak(demands, retained) + sum(
            demand.prompt for demand in demands if not demand.read_together
        )


def test_the_first_token_of_a_request_may_make_room_for_the_next() -> None:
    gate = Admission(Budget(max_running=8, ceiling=1010, costs=_Unread()), max_waiting=9)
    both = (ticket("a", prompt=300, completion=10), ticket("b", prompt=200, completion=10))
    assert [effect.id for effect in arrive(gate, *both)] == ["a"]
    assert [effect.id for effect in gate.grew("a", 1, 1)] == ["b"]
    assert gate.grew("a", 2, 2) == []


class _Counted(PaddedCosts):
    """Counts how often it is asked for a set."""

    asked = 0

    def peak(self, demands: Sequence[SequenceDemand], retained: int, /) -> int:
        type(self).asked += 1
        return super().peak(demands, retained)


def test_a_demand_no_less_than_one_that_did_not_fit_is_not_priced() -> None:
    gate = Admission(Budget(max_running=8, ceiling=1010, costs=_Counted()), max_waiting=9)
    arrive(gate, ticket("a", prompt=300, completion=200), ticket("b", prompt=300, completion=201))
    before = _Counted.asked
    assert arrive(gate, ticket("more", prompt=300, completion=202)) == []
    assert _Counted.asked == before + 1, "whether it fits alone"
    assert [effect.id for effect in arrive(gate, ticket("less", prompt=300, completion=200))] == ["less"]
    assert [effect.id for effect in gate.leave("a", 1)] == []
    assert [effect.id for effect in gate.leave("less", 2)] == ["b"]


def test_cached_tokens_of_a_prompt_lower_its_demand() -> None:
    demand = SequenceDemand(300, 10, cached=100)
    assert demand.no_less_than(demand)
    assert demand.no_less_than(SequenceDemand(300, 10, cached=200))
    assert not demand.no_less_than(SequenceDemand(300, 10, cached=50)), "more of that one is read"
    assert not demand.no_less_than(SequenceDemand(301, 10, cached=200))
    assert not demand.no_less_than(SequenceDemand(200, 11, cached=100))
    assert not demand.no_less_than(SequenceDemand(200, 10, cached=100, segments=1)), (
        "it is read in fewer steps"
    )


def test_effects_are_values() -> None:
    assert Grant("a", 7) == Grant("a", 7)
    assert Refuse("a", Reason.NEVER_FITS, 900) != Refuse("a", Reason.NEVER_FITS, 901)
    with pytest.raises(AttributeError):
        Grant("a").id = "b"  # type: ignore[misc]  # that is the test


def test_reasons_are_what_metrics_count_by() -> None:
    assert [reason.value for reason in Reason] == [
        "queue_full",
        "queue_deadline",
        "never_fits",
        "turn_too_late",
    ]
