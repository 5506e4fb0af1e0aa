"""What is learned from one request after the other; the arithmetic is in test_learning.py."""

from __future__ import annotations

from proxy.gate.budget import Need
from proxy.gate.corrections import LearnedState, PeakSample
from tests.support.law import Padded


def test_predictions_are_the_laws_own_without_corrections() -> None:
    experience = LearnedState()
    experience.saw(10, 10, weights=10)
    experience.granted("a", Padded(factor=1.5), [Need(100)], 20)
    assert experience.saw(70, 90, weights=10) == {"a": 80}
    assert experience.ended("a", 5.0) == PeakSample(120, 80, together=False)
    assert experience.corrections.alone.belief < 1.0
    assert experience.ended("a", 6.0) is None


def test_what_was_broken_off_teaches_nothing() -> None:
    experience = LearnedState()
    experience.granted("a", Padded(), [Need(100)], 0)
    experience.saw(70, None, weights=10)
    experience.broken_off("a")
    assert experience.ended("a", 5.0) is None
    assert experience.corrections.alone.belief == 1.0
