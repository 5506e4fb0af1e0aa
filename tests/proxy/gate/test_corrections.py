"""Corrections are bounded, fade, and are not led astray by one outlier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.corrections import (
    HALF_LIFE_S,
    LEAST_FACTOR,
    MOST_FACTOR,
    Correction,
    Corrections,
    Peaks,
    PeakSample,
)

RATIOS = st.floats(0.0, 1000.0, allow_nan=False)


def after(*ratios: float) -> Correction:
    correction = Correction()
    for at, ratio in enumerate(ratios):
        correction = correction.learned(ratio, at)
    return correction


@given(st.lists(st.floats(0.9, 1.1), max_size=60), RATIOS)
def test_one_outlier_changes_no_decision(usual: list[float], outlier: float) -> None:
    """The factor is all that decisions see of what was learned."""
    before = after(*usual)
    assert before.factor(60) in (1.0, pytest.approx(1.05), pytest.approx(1.1))
    learned = before.learned(outlier, 60)
    if 1 / 1.5 <= outlier / before.belief <= 1.5:
        assert abs(learned.belief - before.belief) <= 0.02 + 1e-9, "usual ones move it a little"
    else:
        assert learned.factor(60) == before.factor(60)


@given(st.lists(RATIOS, max_size=80))
def test_the_factor_is_bounded_and_moves_a_step_at_a_time(ratios: list[float]) -> None:
    factors = [after(*ratios[:number]).factor(number) for number in range(len(ratios) + 1)]
    assert all(LEAST_FACTOR <= factor <= MOST_FACTOR for factor in factors)


def test_a_prediction_that_is_too_low_is_raised_soon_and_one_that_is_too_high_is_lowered_late() -> None:
    assert after(*[1.3] * 20).factor(20) == pytest.approx(1.3)
    assert after(*[0.8] * 90).factor(90) == 1.0
    assert after(*[0.8] * 110).factor(110) == pytest.approx(0.95)


def test_outliers_that_agree_are_believed() -> None:
    assert after(*[3.0] * 3).factor(3) == 1.0
    assert after(*[3.0] * 4).factor(4) == MOST_FACTOR
    assert after(0.3, 3.0, 0.3, 3.0, 0.3, 3.0).factor(6) == 1.0, "they do not agree"
    assert after(3.0, 9.0, 3.0, 9.0, 3.0, 9.0).factor(6) == 1.0, "nor do these"
    assert after(*[3.0] * 3, 1.0, *[3.0] * 3).factor(7) == 1.0


def test_a_bound_that_is_far_too_high_is_lowered_as_slowly_as_any() -> None:
    assert after(*[0.3, 0.1] * 2).factor(4) == 1.0
    assert after(*[0.3, 0.1] * 60).factor(120) == pytest.approx(0.95)
    assert after(*[0.1] * 2000).factor(2000) == LEAST_FACTOR


def test_what_was_learned_fades() -> None:
    learned = after(*[1.4] * 30)
    assert learned.factor(29) == pytest.approx(1.4)
    assert learned.factor(29 + HALF_LIFE_S) == pytest.approx(1.2)
    assert learned.factor(29 + 10 * HALF_LIFE_S) == 1.0


def test_predictions_for_one_and_for_several_are_corrected_separately() -> None:
    corrections = Corrections()
    for at in range(20):
        corrections = corrections.learned(PeakSample(100, 130, together=True), at)
    assert corrections.factors(20) == (1.0, pytest.approx(1.3))
    assert PeakSample(110, 100, together=False).error == pytest.approx(0.1)


def test_the_highest_prediction_and_observation_while_it_ran() -> None:
    peaks = Peaks()
    peaks.observe(5)
    peaks.granted("a", 100, 0)
    peaks.observe(60)
    peaks.granted("b", 180, 0)
    assert peaks.observe(90) == {"a": 85, "b": 30}
    peaks.observe(20)
    assert peaks.ended("a") == PeakSample(180, 90, together=True, exact=False)
    peaks.granted("c", 50, 0)
    assert peaks.ended("b") is None, "that was the same moment"
    assert peaks.ended("c") is None, "nothing was observed while it ran"
    assert peaks.ended("c") is None


def test_a_peak_between_two_observations_is_known_if_it_was_the_highest_ever() -> None:
    peaks = Peaks()
    peaks.observe(5, 50)
    peaks.granted("a", 100, 0)
    peaks.observe(20, 50)
    peaks.observe(20, 70)
    assert peaks.ended("a") == PeakSample(100, 70, together=False, exact=True)
    peaks.granted("b", 100, 0)
    peaks.observe(30, 70)
    peaks.observe(10, 8)
    assert peaks.ended("b") == PeakSample(100, 30, together=False, exact=False), "it may have been up to 70"


def test_a_sample_that_is_not_exact_can_only_raise_the_correction() -> None:
    corrections = Corrections()
    for at in range(40):
        corrections = corrections.learned(PeakSample(100, 80, together=False, exact=False), at)
    assert corrections == Corrections()
    for at in range(40):
        corrections = corrections.learned(PeakSample(100, 120, together=False, exact=False), at)
    assert corrections.factors(40) == (pytest.approx(1.2), 1.0)


def test_mostly_retained_memory_yields_no_sample() -> None:
    peaks = Peaks()
    peaks.granted("a", 100, 51)
    peaks.observe(60)
    assert peaks.ended("a") is None
