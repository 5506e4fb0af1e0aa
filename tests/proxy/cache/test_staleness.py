from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.simulator import CacheRules, CacheSimulator
from proxy.cache.staleness import CachePrediction, Insertions, holds, most

PREDICTION = CachePrediction(
    tokens=50, cached=0, cost=0, exact_hit=False, same_length=False, longest=80, inserts=(49,)
)
ENOUGH = most(10, 100)


def test_what_came_since() -> None:
    insertions = Insertions(remembered=4)
    assert insertions.since(insertions.count) == []
    insertions.add([1, 2])
    before = insertions.count
    insertions.add([3, 4])
    assert (insertions.since(0), insertions.since(before)) == ([1, 2, 3, 4], [3, 4])
    insertions.add([5])
    assert insertions.since(0) is None, "too long ago"
    assert insertions.since(1) == [2, 3, 4, 5]
    insertions.add(None)
    assert insertions.since(before) is None
    assert insertions.since(insertions.count) == []


@pytest.mark.parametrize(
    ("prediction", "inserted", "expected"),
    [
        (PREDICTION, [], True),
        (replace(PREDICTION, exact_hit=True, same_length=True, longest=10**6), [], True),
        (PREDICTION, None, False),
        (PREDICTION, [49, 100], True),
        (PREDICTION, [50], False),  # it may be this prompt
        (PREDICTION, [101], False),  # it may be searched for long
        (replace(PREDICTION, longest=101), [1], False),
        (replace(PREDICTION, same_length=True), [1], False),  # its tokens may become known
        (replace(PREDICTION, exact_hit=True, same_length=True), [1], False),
    ],
)
def test_what_was_predicted_holds(
    prediction: CachePrediction, inserted: list[int] | None, expected: bool
) -> None:
    assert holds(prediction, inserted, sequences=10, max_cost=ENOUGH) is expected


ids = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda drawn: array("i", drawn))


@given(st.lists(ids, max_size=8), ids)
def test_no_search_costs_more_than_the_bound(entries: list[array[int]], prompt: array[int]) -> None:
    simulator = CacheSimulator(CacheRules(sequences=5))
    for entry in entries:
        simulator.insert(entry, "assistant", unknown=1)
    longest = max((entry.length for entry in simulator.entries()), default=0)
    assert simulator.search(prompt).cost <= most(5, longest)
