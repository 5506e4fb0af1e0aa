"""The fit of the reading speed: what it is told it says again, within bounds, whatever it is told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.reading_speed import ReadingSpeed


def test_before_anything_is_measured_a_thousand_tokens_take_a_second() -> None:
    assert ReadingSpeed().seconds(0, 1000) == pytest.approx(1.0)
    assert ReadingSpeed().seconds(500, 500) == 0.0
    assert ReadingSpeed().seconds(500, 100) == 0.0


@pytest.mark.parametrize(("linear", "quadratic"), [(1 / 1750, 7.9e-8), (1 / 190, 2.6e-7), (1 / 9000, 4e-9)])
def test_it_finds_both_factors_from_progress_reports(linear: float, quadratic: float) -> None:
    rng, speed = random.Random(1), ReadingSpeed()

    def truth(start: int, end: int) -> float:
        return (end - start) * linear + (end * end - start * start) / 2 * quadratic

    for _ in range(40):
        start = rng.randrange(0, 60_000)
        end = start + rng.choice((512, 2048, 8192))
        speed = speed.observed(start, end, truth(start, end) * rng.uniform(0.9, 1.1))
    for start, end in ((0, 60_000), (50_000, 58_000)):
        assert speed.seconds(start, end) == pytest.approx(truth(start, end), rel=0.25)


def test_one_read_is_enough_to_leave_the_prior() -> None:
    assert ReadingSpeed().observed(0, 40_000, 4.0).seconds(0, 40_000) == pytest.approx(4.0, rel=0.1)


def test_short_reads_and_impossible_times_change_nothing() -> None:
    speed = ReadingSpeed()
    assert speed.observed(0, 10, 5.0) is speed
    assert speed.observed(0, 10_000, 0.0) is speed


@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.integers(1, 100_000), st.floats(0, 1e6, allow_nan=False)),
        max_size=30,
    ),
    st.integers(0, 200_000),
    st.integers(1, 100_000),
)
def test_it_stays_within_its_bounds_and_grows_with_length(
    seen: list[tuple[int, int, float]], start: int, tokens: int
) -> None:
    speed = ReadingSpeed()
    for begin, number, seconds in seen:
        speed = speed.observed(begin, begin + number, seconds)
    took = speed.seconds(start, start + tokens)
    assert tokens * 5e-5 <= took * 1.001
    assert took <= tokens * 2e-2 * 1.001
    assert speed.seconds(start, start + 2 * tokens) >= took * 0.999
