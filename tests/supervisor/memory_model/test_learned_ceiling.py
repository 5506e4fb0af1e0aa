"""Learned limits as arithmetic, and what must hold whatever happens to a child."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from supervisor.memory_model.learned_ceiling import (
    LEAST_SHARE,
    LONGEST_STABLE_S,
    STABLE_S,
    LearnedCeiling,
    MemoryDeath,
    bound,
    lowered,
    worked,
)

GB = 10**9


def death(held: float = 22.0, ceiling: float = 24.0) -> MemoryDeath:
    return MemoryDeath("metal_oom", round(held * GB), round(ceiling * GB), 1000.0)


deaths = st.builds(
    MemoryDeath,
    cause=st.just("cuda_oom"),
    held=st.integers(0, 10**13),
    ceiling=st.integers(0, 10**12),
    at=st.floats(0, 1e10),
)
histories = st.lists(deaths | st.floats(0, 1e6), max_size=60)


def after(history: list[MemoryDeath | float]) -> list[LearnedCeiling]:
    """The states that a history leads through."""
    states = [LearnedCeiling()]
    for event in history:
        before = states[-1]
        states.append(lowered(before, event) if isinstance(event, MemoryDeath) else worked(before, event))
    return states


def test_nothing_is_learned_from_nothing() -> None:
    assert bound(LearnedCeiling(), 24 * GB) is None
    assert worked(LearnedCeiling(), 1e9) == LearnedCeiling()


def test_a_death_below_the_ceiling_lowers_it_to_less_than_what_killed() -> None:
    learned = lowered(LearnedCeiling(), death(held=23.5))
    assert learned.share == pytest.approx(0.95 * 23.5 / 24)
    limit = bound(learned, 24 * GB)
    assert limit is not None
    assert limit.bytes == pytest.approx(0.95 * 23.5 * GB)
    assert limit.source == (
        "93% of what would otherwise be allowed, learned from a death from lack of memory "
        "(the last: metal_oom at 23.5 GB of 24.0 GB)"
    )


@pytest.mark.parametrize(("held", "share"), [(0.1, 0.90), (100.0, 0.97)])
def test_an_outlier_moves_it_by_one_step(held: float, share: float) -> None:
    assert lowered(LearnedCeiling(), death(held=held)).share == pytest.approx(share)


def test_stable_work_raises_it_and_each_death_makes_that_slower() -> None:
    learned = lowered(LearnedCeiling(), death())
    almost = worked(learned, STABLE_S - 1)
    assert almost.share == learned.share
    raised = worked(almost, 1)
    assert raised.share == pytest.approx(learned.share + 0.02)
    assert raised.worked_s == 0
    again = lowered(raised, death())
    assert again.stable_s == 2 * STABLE_S
    assert worked(again, STABLE_S).share == again.share


def test_raises_decay_and_in_the_end_nothing_is_held_against_it() -> None:
    states = [lowered(LearnedCeiling(), death())]
    while states[-1] != LearnedCeiling():
        states.append(worked(states[-1], LONGEST_STABLE_S))
        assert len(states) < 30
    steps = [later.share - earlier.share for earlier, later in pairwise(states[:-1])]
    assert steps == sorted(steps, reverse=True)


@given(histories)
def test_every_change_is_one_bounded_step(history: list[MemoryDeath | float]) -> None:
    states = after(history)
    for before, now, event in zip(states, states[1:], history, strict=False):
        assert LEAST_SHARE <= now.share <= 1.0
        if isinstance(event, MemoryDeath):
            assert max(
                LEAST_SHARE, 0.9 * before.share
            ) - 1e-12 <= now.share <= 0.97 * before.share + 1e-12 or (now.share == LEAST_SHARE)
            assert now.worked_s == 0
        else:
            assert before.share <= now.share <= before.share + 0.02 + 1e-12
        assert STABLE_S <= now.stable_s <= LONGEST_STABLE_S


@given(histories, deaths, deaths)
def test_however_wrong_one_reading_is_it_moves_hardly_more_than_any_other(
    history: list[MemoryDeath | float], one: MemoryDeath, other: MemoryDeath
) -> None:
    before = after(history)[-1]
    assert abs(lowered(before, one).share - lowered(before, other).share) <= 0.07 * before.share + 1e-12


FORM = TypeAdapter(LearnedCeiling)


@given(histories)
def test_what_is_written_is_read_again(history: list[MemoryDeath | float]) -> None:
    learned = after(history)[-1]
    if learned.last is not None and not learned.last.ceiling:
        return  # no plan has such a ceiling
    assert FORM.validate_json(FORM.dump_json(learned), strict=True) == learned


@pytest.mark.parametrize(
    "broken",
    [
        {"share": 0.1},
        {"share": float("nan")},
        {"share": "0.9"},
        {"share": True},
        {"deaths": -1},
        {"deaths": 1.5},
        {"last": {"a": 1}},
        {"last": {"cause": "", "held": 1, "ceiling": 0, "at": 0}},
        {"last": {"cause": "", "held": 10**30, "ceiling": 1, "at": 0}},
        {"last": {"cause": "", "held": 1, "ceiling": 1, "at": float("inf")}},
        {"worked_s": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FORM.validate_json(json.dumps(broken), strict=True)
