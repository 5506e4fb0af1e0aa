"""Turns of sessions that do not all fit: who may run, for whom a place is held, and what is promised."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.reading_speed import ReadingSpeed
from proxy.gate.residents import KeptSequence, Residents, SessionRequest
from proxy.gate.session_turns import (
    HOLD_S,
    TurnDecision,
    decide,
    expected_wait_s,
    least_wait_s,
    longest_wait_s,
    outsiders,
    slice_s,
)
from tests.proxy.gate.test_residents import Rows

#: Three sessions of 10,000 rows fit beside a running one; a cold read of one takes 10 s.
MEMORY = Rows(52_000)
SPEED = ReadingSpeed()
BOUND_S = 600.0


def waits(session: str, arrived: float = 0.0, rows: int = 10_000, cached: int = 0) -> SessionRequest:
    return SessionRequest(f"{session}@{arrived:g}", session, arrived, rows, cached)


def kept(*sessions: str, ended: float = -1000.0) -> Residents:
    sequences = [KeptSequence(session, 10_000, 10_000, ended) for session in sessions]
    return Residents(sequences, MEMORY, lambda _: True)


def decided(
    residents: Residents, *waiting: SessionRequest, swapped: float = -math.inf, now: float = 0.0
) -> TurnDecision:
    outside = outsiders(waiting, residents, MEMORY)
    assert outside
    return decide(waiting, outside, residents, MEMORY, SPEED, swapped=swapped, bound_s=BOUND_S, now=now)


def test_where_all_fit_nobody_is_outside() -> None:
    assert not outsiders([waits("c")], kept("a", "b"), MEMORY)
    assert not outsiders([waits("a")], kept("a", "b", "c"), MEMORY)


def test_residents_run_and_others_wait_for_their_slice() -> None:
    found = decided(kept("a", "b", "c"), waits("d"), waits("a", 1.0), swapped=0.0, now=5.0)
    assert found.order == ("a@1",)
    assert found.outside == ("d@0",)
    assert found.due is None
    assert found.wake == 40.0  # four cold reads


def test_once_per_slice_the_longest_waiting_one_is_due_and_only_small_ones_pass() -> None:
    small = waits("title", 3.0, rows=100)
    waiting = [waits("e", 2.0), waits("d", 1.0), waits("a"), small]
    found = decided(kept("a", "b", "c"), *waiting, swapped=0.0, now=40.0)
    assert found.due == "d@1"
    assert found.order == ("title@3", "d@1")


def test_a_resident_that_is_away_is_held_for() -> None:
    found = decided(kept("a", "b", "c", ended=0.0), waits("d"), swapped=0.0, now=5.0)
    assert found.order == ()
    assert found.wake == 10.0  # as long as reading the displaced one would take


def test_the_hold_is_bounded() -> None:
    slow = ReadingSpeed(lt=ReadingSpeed().lt * 20)
    residents, waiting = kept("a", "b", "c", ended=0.0), [waits("d")]
    outside = outsiders(waiting, residents, MEMORY)
    found = decide(waiting, outside, residents, MEMORY, slow, swapped=0.0, bound_s=BOUND_S, now=5.0)
    assert found.wake == HOLD_S


def test_when_the_hold_is_over_the_next_one_is_let_in_before_its_slice() -> None:
    found = decided(kept("a", "b", "c", ended=0.0), waits("d"), swapped=0.0, now=11.0)
    assert found.order == ("d@0",)
    assert found.due is None


def test_nobody_is_held_for_while_it_waits_itself() -> None:
    residents = kept("a", "b", "c", ended=0.0)
    found = decided(residents, waits("d"), waits("a", 1.0), swapped=0.0, now=5.0)
    assert found.order == ("a@1",)


def test_small_ones_do_not_end_a_hold() -> None:
    small = waits("title", 1.0, rows=100)
    found = decided(kept("a", "b", "c", ended=0.0), waits("d"), small, swapped=0.0, now=5.0)
    assert found.order == ("title@1",)


def test_a_slice_is_at_least_a_cold_read_and_shorter_where_many_wait() -> None:
    assert slice_s(waits("d"), 1, SPEED, BOUND_S) == pytest.approx(40.0)
    assert slice_s(waits("d"), 20, SPEED, BOUND_S) == pytest.approx(20.0)
    assert slice_s(waits("d"), 1000, SPEED, BOUND_S) == pytest.approx(10.0)


def test_what_is_expected_grows_with_the_place_among_those_outside() -> None:
    outside = [waits("d"), waits("e", 1.0), waits("f", 2.0)]
    expected = [
        expected_wait_s(each.id, outside, SPEED, swapped=0.0, bound_s=BOUND_S, now=20.0) for each in outside
    ]
    assert expected == [20.0, 70.0, 120.0]
    assert expected_wait_s("a", outside, SPEED, swapped=0.0, bound_s=BOUND_S, now=20.0) is None
    assert [least_wait_s(each.id, outside, SPEED) for each in outside] == [0.0, 10.0, 20.0]


_SESSIONS = st.sampled_from("abcdefgh")


@given(
    st.lists(st.tuples(_SESSIONS, st.floats(0, 100), st.integers(1, 30_000)), min_size=1, max_size=12),
    st.lists(_SESSIONS, max_size=6, unique=True),
    st.floats(-100, 100),
    st.floats(0, 500),
)
def test_decisions_are_consistent(
    waiting: list[tuple[str, float, int]], resident: list[str], swapped: float, now: float
) -> None:
    requests = [
        SessionRequest(str(number), session, arrived, rows)
        for number, (session, arrived, rows) in enumerate(waiting)
    ]
    residents = kept(*resident, ended=now - 30)
    outside = outsiders(requests, residents, MEMORY)
    if not outside:
        return
    found = decide(requests, outside, residents, MEMORY, SPEED, swapped=swapped, bound_s=BOUND_S, now=now)
    assert len(set(found.order)) == len(found.order)
    assert not set(found.order) & set(found.outside[1:])  # one from outside at a time, the longest waiting
    assert {*found.order, *found.outside} <= {request.id for request in requests}
    assert found.due in (None, found.outside[0])
    assert found.wake > now
    if not found.order:
        assert found.wake < math.inf  # nobody is forgotten


def test_the_promise_grows_with_those_ahead_and_is_never_less_than_a_turn() -> None:
    assert longest_wait_s(0, 10.0, 15.0, BOUND_S) == pytest.approx(70.0)
    assert longest_wait_s(5, 10.0, 15.0, BOUND_S) == pytest.approx(6 * 70.0)
    assert longest_wait_s(59, 10.0, 15.0, BOUND_S) == pytest.approx(60 * 40.0)
