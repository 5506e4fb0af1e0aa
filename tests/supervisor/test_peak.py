"""What a step of a prompt works in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.cost import Kind, Law, Part
from supervisor.peak import Peak, Traced, logits, working

TRACED = Traced(
    law=Law((Part(Kind.GROWING, 100_000),)),
    attention=((32, 128, 128),),
    layer_width=50_000,
    vocabulary=128_000,
    backend="metal",
)


def test_it_adds_up() -> None:
    assert Peak(weights=1, caches=20, working=300).total == 321


@pytest.mark.parametrize(
    ("backend", "head", "fused"),
    [("metal", 128, True), ("metal", 256, False), ("cpu", 128, False), ("cuda", 128, False)],
)
def test_scores_count_where_attention_is_not_fused(backend: str, head: int, fused: bool) -> None:
    traced = replace(TRACED, backend=backend, attention=((32, head, head),), layer_width=10**6)
    without = working(replace(traced, attention=()), 32_768, 1, 2048)
    assert (working(traced, 32_768, 1, 2048) == without) is fused


def test_wide_attention_counts_where_the_layer_is_narrow() -> None:
    narrow = replace(TRACED, layer_width=10)
    assert working(narrow, 0, 1, 1) == 0 + 14 * 32 * 128 * 2
    assert working(TRACED, 0, 1, 1) == 2 * 50_000 * 2


def test_a_short_prompt_works_in_less_than_a_step() -> None:
    assert working(TRACED, 10, 1, 2048) < working(TRACED, 4096, 1, 2048) / 10


def test_it_grows_with_members_step_and_context() -> None:
    sizes = [
        working(TRACED, *case) for case in ((4096, 1, 512), (4096, 1, 1024), (4096, 2, 1024), (8192, 2, 1024))
    ]
    assert sizes == sorted(set(sizes))


def test_the_next_token_is_chosen_among_the_whole_vocabulary() -> None:
    assert logits(TRACED) == 128_000 * 16
