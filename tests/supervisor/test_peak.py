"""The estimate of the fullest moment: monotonous, and never below what is certain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cost import Kind, Law, Part
from supervisor.peak import COPIES_ALONE, COPIES_TOGETHER, Model, Traced, largest, peak, working

ROW = 100_000
TRACED = Traced(
    law=Law((Part(Kind.GROWING, ROW),)),
    attention=((32, 128, 128),),
    layer_width=50_000,
    vocabulary=128_000,
    backend="metal",
)
MODEL = Model(weights=10**10, law=TRACED.law, traced=TRACED, batched=True)


def test_it_is_weights_caches_and_what_a_step_works_in() -> None:
    found = peak(MODEL, 4096, 1, 2048)
    assert found.weights == 10**10
    assert found.caches == COPIES_ALONE * 4096 * ROW
    assert found.working == working(TRACED, 4096, 1, 2048)
    assert found.total == found.weights + found.caches + found.working


def test_a_batch_is_members_times_longest_and_pins_more() -> None:
    assert peak(MODEL, 4096, 4, 2048).caches == COPIES_TOGETHER * 4 * 4096 * ROW


def test_a_window_counts_at_its_largest() -> None:
    """While a prompt is read: all but one row of the window, and the step."""
    windowed = replace(MODEL, law=Law((Part(Kind.WINDOW, ROW, size=1024),)))
    assert peak(windowed, 8192, 1, 2048).caches == COPIES_ALONE * (1023 + 2048) * ROW


@pytest.mark.parametrize(
    ("backend", "head", "fused"),
    [("metal", 128, True), ("metal", 256, False), ("cpu", 128, False), ("cuda", 128, False)],
)
def test_scores_count_where_attention_is_not_fused(backend: str, head: int, fused: bool) -> None:
    traced = replace(TRACED, backend=backend, attention=((32, head, head),))
    without = working(replace(traced, attention=()), 32_768, 1, 2048)
    assert (working(traced, 32_768, 1, 2048) == without) is fused


def test_a_short_prompt_works_in_less_than_a_step() -> None:
    assert working(TRACED, 10, 1, 2048) < working(TRACED, 4096, 1, 2048) / 10


@given(st.integers(0, 60), st.integers(1, 8))
def test_the_largest_fits_and_one_more_does_not(gigabytes: int, members: int) -> None:
    ceiling = gigabytes * 10**9
    rows = largest(MODEL, ceiling, members, 2048, most=131_072)
    if rows:
        assert peak(MODEL, rows, members, 2048).total <= ceiling
    if rows < 131_072:
        assert peak(MODEL, rows + 1, members, 2048).total > ceiling


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert largest(MODEL, 10**9, 1, 2048, most=1000) == 0
