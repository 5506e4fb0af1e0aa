"""The marks as arithmetic over readings, and the least costly set against all sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.memory.pressure import (
    LOOKS,
    LOST_S,
    STALE_S,
    Mark,
    Marks,
    MemoryReading,
    PressureState,
    RunningLoad,
    least_costly,
)
from supervisor.memory_model.sequence import SequenceDemand

MARKS = Marks(weights=1000, ceiling=2000)


def after(*actives: int | None, age_s: float = 0.0, outside: int | None = None) -> PressureState:
    pressure = PressureState()
    for active in actives:
        pressure = pressure.after(MemoryReading(active, age_s, outside), MARKS)
    return pressure


def test_the_marks_are_shares_of_the_memory_beside_the_weights() -> None:
    assert (MARKS.release, MARKS.soft) == (1850, 1920)


@pytest.mark.parametrize(
    ("actives", "mark"),
    [
        ((1000,), Mark.NONE),
        ((1919,), Mark.NONE),
        ((1920,), Mark.SOFT),
        ((1920, 1851), Mark.SOFT),
        ((1920, 1850), Mark.NONE),
        ((2001,), Mark.SOFT),
        ((2001,) * LOOKS, Mark.HARD),
        ((2001, 1900, 2001), Mark.SOFT),
        ((2001, 2001, 1900), Mark.SOFT),
        ((2001, 2001, 1200), Mark.NONE),
    ],
)
def test_a_mark_is_reached_at_once_and_left_well_below(actives: tuple[int, ...], mark: Mark) -> None:
    assert after(*actives).mark is mark


def test_stale_telemetry_counts_as_full_but_ends_nothing() -> None:
    stale = after(1000, 1000, 1000, age_s=STALE_S + 1)
    assert stale.mark is Mark.SOFT
    assert stale.after(MemoryReading(1000, 0.1, None), MARKS).mark is Mark.NONE
    assert after(9999, 9999, 9999, age_s=STALE_S + 1).mark is Mark.SOFT
    assert after(1000, age_s=LOST_S + 1).mark is Mark.NONE


def test_the_view_from_outside_ends_nothing() -> None:
    assert after(None, None, None, outside=2001).mark is Mark.SOFT
    assert after(None, outside=2000).mark is Mark.NONE
    assert after(None).mark is Mark.NONE


@given(st.lists(st.integers(0, 3000), max_size=30))
def test_nothing_is_ended_for_one_look_nor_held_when_there_is_room(actives: list[int]) -> None:
    pressure = PressureState()
    for index, active in enumerate(actives):
        pressure = pressure.after(MemoryReading(active, 0.0, None), MARKS)
        if pressure.mark is Mark.HARD:
            assert min(actives[index - 1 : index + 1]) > MARKS.ceiling
        if active <= MARKS.release:
            assert pressure.mark is Mark.NONE
        if active >= MARKS.soft:
            assert pressure.mark is not Mark.NONE


def padded(demands: Sequence[SequenceDemand]) -> int:
    return len(demands) * max((demand.prompt for demand in demands), default=0)


def a_load(id: str, rows: int, *, sent: bool = False, read: int = 0, generated: int = 0) -> RunningLoad:
    return RunningLoad(id, SequenceDemand(rows), sent, read, generated)


def test_a_request_that_can_be_replayed_ends_before_one_whose_client_has_seen_content() -> None:
    loads = [a_load("seen", 100, sent=True, read=90, generated=5), a_load("unseen", 100, read=90)]
    assert least_costly(loads, 1, padded) == ("unseen",)


def test_in_a_padded_batch_the_longest_sets_the_cost() -> None:
    loads = [a_load("long", 1000, read=900), *(a_load(name, 10, read=9) for name in "abc")]
    assert set(least_costly(loads, 3000, padded)) == set("abc"), "each costs as much as the longest"
    assert least_costly(loads, 3001, padded) == ("long",)


def test_if_nothing_is_enough_all_end() -> None:
    assert least_costly([a_load("a", 10), a_load("b", 10)], 1000, padded) == ("a", "b")
    assert least_costly([], 1000, padded) == ()


_LOADS = st.lists(
    st.tuples(st.integers(1, 50), st.booleans(), st.integers(0, 100), st.integers(0, 100)), max_size=6
)


@given(_LOADS, st.integers(1, 400))
def test_no_other_set_would_do_at_less_loss(values: list[tuple[int, bool, int, int]], over: int) -> None:
    loads = [
        a_load(str(number), rows, sent=sent, read=read, generated=generated)
        for number, (rows, sent, read, generated) in enumerate(values)
    ]
    chosen = set(least_costly(loads, over, padded))
    before = padded([load.demand for load in loads])
    enough = [
        sum(load.loss for load in ended)
        for count in range(len(loads) + 1)
        for ended in combinations(loads, count)
        if before - padded([load.demand for load in loads if load not in ended]) >= over
    ]
    if enough:
        assert sum(load.loss for load in loads if load.id in chosen) == min(enough)
        assert before - padded([load.demand for load in loads if load.id not in chosen]) >= over
    else:
        assert len(chosen) == len(loads)
