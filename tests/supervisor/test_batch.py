"""The law of batches: never less than its parts, and never less for more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.batch import Member, Serving, kv, largest_prompt, peak
from supervisor.cost import Kind, Law, Part
from supervisor.peak import Model, Traced

ROW = 100_000
TRACED = Traced(law=Law((Part(Kind.GROWING, ROW),)), layer_width=5000, vocabulary=1000, backend="metal")
SERVING = Serving(
    Model(weights=10**9, law=TRACED.law, traced=TRACED, batched=True),
    step=512,
    decodes=4,
    prompts=2,
    kept_sequences=10,
)
members = st.lists(st.builds(Member, st.integers(1, 20_000), st.integers(1, 2000)), min_size=1, max_size=5)


def test_a_batch_costs_as_much_as_its_longest_each() -> None:
    assert kv(SERVING, [Member(1000, 24), Member(10, 5)]) == 2 * 1024 * ROW
    assert kv(SERVING, []) == 0


@given(members, st.builds(Member, st.integers(1, 20_000), st.integers(1, 2000)))
def test_one_more_is_never_cheaper(some: list[Member], another: Member) -> None:
    assert kv(SERVING, [*some, another]) >= kv(SERVING, some)
    assert peak(SERVING, [*some, another]).total >= peak(SERVING, some).total


@given(members, st.integers(0, 10**9))
def test_what_is_retained_comes_on_top(some: list[Member], retained: int) -> None:
    assert peak(SERVING, some, retained).total >= peak(SERVING, some).total
    assert peak(SERVING, some).total >= SERVING.model.weights + kv(SERVING, some[:1])


@pytest.mark.parametrize("gigabytes", [0, 1, 2, 5, 20])
def test_the_largest_prompt_fits_and_a_longer_one_does_not(gigabytes: int) -> None:
    ceiling = gigabytes * 10**9
    found = largest_prompt(SERVING, ceiling, completion=100)
    assert not found or peak(SERVING, [Member(found, 100)]).total <= ceiling
    assert peak(SERVING, [Member(found + 1, 100)]).total > ceiling
