from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.simulator import CacheRules, CacheSimulator
from proxy.cache.staleness import CachePrediction, Insertions, holds, most

TOLD = CachePrediction(tokens=50, cached=0, copied=0, key=False, twin=False, longest=80, leaves=(49,))
ENOUGH = most(10, 100)


def test_what_came_since() -> None:
    arrivals = Insertions(remembered=4)
    assert arrivals.since(arrivals.count) == []
    arrivals.came([1, 2])
    before = arrivals.count
    arrivals.came([3, 4])
    assert (arrivals.since(0), arrivals.since(before)) == ([1, 2, 3, 4], [3, 4])
    arrivals.came([5])
    assert arrivals.since(0) is None, "too long ago"
    assert arrivals.since(1) == [2, 3, 4, 5]
    arrivals.unknown()
    assert arrivals.since(before) is None
    assert arrivals.since(arrivals.count) == []


@pytest.mark.parametrize(
    ("told", "came", "expected"),
    [
        (TOLD, [], True),
        (replace(TOLD, key=True, twin=True, longest=10**6), [], True),
        (TOLD, None, False),
        (TOLD, [49, 100], True),
        (TOLD, [50], False),  # it may be this prompt
        (TOLD, [101], False),  # it may be searched for long
        (replace(TOLD, longest=101), [1], False),
        (replace(TOLD, twin=True), [1], False),  # its tokens may become known
        (replace(TOLD, key=True, twin=True), [1], False),
    ],
)
def test_what_was_foreseen_holds(told: CachePrediction, came: list[int] | None, expected: bool) -> None:
    assert holds(told, came, sequences=10, most_copied=ENOUGH) is expected


ids = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda drawn: array("i", drawn))


@given(st.lists(ids, max_size=8), ids)
def test_no_search_copies_more_than_the_bound(entries: list[array[int]], prompt: array[int]) -> None:
    mirror = CacheSimulator(CacheRules(sequences=5))
    for entry in entries:
        mirror.insert(entry, "assistant", unknown=1)
    longest = max((entry.length for entry in mirror.entries()), default=0)
    assert mirror.search(prompt).copied <= most(5, longest)
