"""The order of turns; decisions by it are in test_admission.py."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.queue import FairQueue, Ticket, fairness_key
from proxy.http.access import ANONYMOUS


def ticket(id: str, client: str = "c", at: float = 0, until: float = 100) -> Ticket:
    return Ticket(id, client, arrived=at, deadline=until)


def ids(queue: FairQueue, number: int = 100) -> list[str]:
    return [each.id for each in queue.first(number)]


def test_replays_are_first_then_clients_take_turns() -> None:
    queue = FairQueue()
    for at, (id, client) in enumerate((("a1", "a"), ("a2", "a"), ("b1", "b"))):
        queue.enter(ticket(id, client, at))
    queue.enter(ticket("replay", "a", 9), replay=True)
    assert ids(queue) == ["replay", "a1", "b1", "a2"]
    queue.took_turn(ticket("a0", "a"))
    assert ids(queue) == ["replay", "b1", "a1", "a2"], "a's last turn is not as long ago as b's"
    assert [queue.position(id) for id in ("replay", "a2", "unknown")] == [1, 4, None]


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_order_is_that_of_the_grants(clients: list[str]) -> None:
    queue = FairQueue()
    for number, client in enumerate(clients):
        queue.enter(ticket(str(number), client, number))
    predicted, granted = ids(queue), []
    while first := next(queue.first(1), None):
        queue.remove(first.id)
        queue.took_turn(first)
        granted.append(first.id)
    assert granted == predicted


def test_the_key_by_which_a_request_takes_turns() -> None:
    assert fairness_key("none", "laptop", "s") == fairness_key("none", ANONYMOUS, "t")
    assert fairness_key("key", "laptop", "s") == fairness_key("key", "laptop", "t")
    assert fairness_key("key", "laptop", "s") != fairness_key("key", "desk", "s")
    assert fairness_key("key", ANONYMOUS, "s") != fairness_key("key", ANONYMOUS, "t")
    assert fairness_key("session", "laptop", "s") != fairness_key("session", "laptop", "t")
    assert fairness_key("session", "laptop", "s") != fairness_key("session", "desk", "s")


def test_turns_of_old_sessions_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(5_000):
        queue.took_turn(ticket(str(number), f"session {number}"))
    queue.enter(ticket("late", "session 4999", at=1))
    queue.enter(ticket("long ago", "session 0", at=2))
    assert ids(queue) == ["long ago", "late"], "a forgotten session counts as new"
    assert len(queue._turns) < 2_000


def test_a_suspect_keeps_its_place_by_arrival() -> None:
    queue = FairQueue()
    queue.enter(ticket("a", "a", 0))
    queue.enter(replace(ticket("suspect", "a", 1), alone=True))
    queue.enter(ticket("b", "b", 2))
    assert ids(queue) == ["a", "suspect", "b"]
    queue.remove("suspect")
    assert ids(queue) == ["a", "b"]


def test_expired_requests() -> None:
    queue = FairQueue()
    queue.enter(ticket("a", until=5))
    queue.enter(ticket("b", until=7))
    assert queue.next_deadline() == 5
    assert [[each.id for each in queue.expired(now)] for now in (4, 5, 8)] == [[], ["a"], ["a", "b"]]
    queue.remove("a")
    queue.remove("a")
    assert (queue.next_deadline(), len(queue), "a" in queue) == (7, 1, False)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=12))
def test_the_first_few_are_the_first_of_all(entered: list[tuple[str, int, bool]]) -> None:
    """The order is worked out only as far as needed."""
    queue = FairQueue()
    for number, (client, at, alone) in enumerate(entered):
        queue.enter(replace(ticket(str(number), client, at), alone=alone))
    whole = ids(queue)
    assert len(whole) == len(entered)
    for number in range(len(entered) + 1):
        assert ids(queue, number) == whole[:number]
