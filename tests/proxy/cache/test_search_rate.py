"""Arithmetic of one coefficient."""

from __future__ import annotations

import pytest

from proxy.cache.search_rate import SearchRate

LONG = 64_000 * 64_001 // 2


def test_before_anything_was_seen_a_long_search_takes_seconds() -> None:
    assert 2 < SearchRate().seconds(LONG) < 5
    assert SearchRate().items(SearchRate().seconds(LONG)) == pytest.approx(LONG, rel=1e-6)


def test_it_comes_to_what_is_seen() -> None:
    rate = SearchRate()
    for _ in range(20):
        rate = rate.observed(LONG, 9.0)
    assert rate.seconds(LONG) == pytest.approx(9.0, rel=0.01)


@pytest.mark.parametrize("seconds", [1e-6, 1e6])
def test_one_strange_observation_moves_it_within_bounds(seconds: float) -> None:
    before = SearchRate()
    after = before.observed(LONG, seconds)
    assert before.per_item / 8 <= after.per_item <= before.per_item * 8
    back = after
    for _ in range(8):
        back = back.observed(LONG, before.seconds(LONG))
    assert back.per_item == pytest.approx(before.per_item, rel=0.15)


@pytest.mark.parametrize(("copied", "seconds"), [(0, 1.0), (LONG, 0.0), (LONG, -1.0)])
def test_what_says_nothing_changes_nothing(copied: int, seconds: float) -> None:
    assert SearchRate().observed(copied, seconds) == SearchRate()
