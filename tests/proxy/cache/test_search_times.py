"""Arithmetic of one coefficient, and the silences that follow from it."""

from __future__ import annotations

import pytest

from proxy.cache.search_times import WORTH_S, SearchTimes

LONG = 64_000 * 64_001 // 2


def made() -> SearchTimes:
    return SearchTimes(lambda _: None)


def test_before_anything_was_seen_a_long_search_takes_seconds() -> None:
    searches = made()
    assert 2 < searches.seconds(LONG) < 5
    assert searches.seconds(searches.max_cost) == pytest.approx(WORTH_S, rel=1e-6)


def test_it_comes_to_what_is_seen() -> None:
    searches = made()
    for _ in range(20):
        searches.observed(LONG, 9.0)
    assert searches.seconds(LONG) == pytest.approx(9.0, rel=0.01)


@pytest.mark.parametrize("seconds", [1e-6, 1e6])
def test_one_strange_observation_moves_it_within_bounds(seconds: float) -> None:
    usual, searches = made().seconds(LONG), made()
    searches.observed(LONG, seconds)
    assert usual / 8 <= searches.seconds(LONG) <= usual * 8
    for _ in range(8):
        searches.observed(LONG, usual)
    assert searches.seconds(LONG) == pytest.approx(usual, rel=0.15)


@pytest.mark.parametrize(("cost", "seconds"), [(0, 1.0), (LONG, 0.0), (LONG, -1.0)])
def test_what_says_nothing_changes_nothing(cost: int, seconds: float) -> None:
    searches = made()
    searches.observed(cost, seconds)
    assert searches.seconds(LONG) == made().seconds(LONG)


def test_silences_are_expected_one_after_the_other_until_another_child_serves() -> None:
    announced: list[float] = []
    searches = SearchTimes(announced.append, lambda: 1000.0)
    searches.expect(searches.max_cost // 2)
    assert announced == [], "too short for a stall"
    for _ in range(2):
        searches.expect(LONG)
    searches.restart()
    searches.expect(LONG)
    lengths = [until - 1000.0 for until in announced]
    assert lengths == [pytest.approx(share * 3 * searches.seconds(LONG)) for share in (1, 2, 1)]
