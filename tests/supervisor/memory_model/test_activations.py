"""What a step of a prompt works in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.memory_model.activations import PeakMemory, Traced, logits, step_activations
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind

TRACED = Traced(
    cost_model=CostModel((CachePart(GrowthKind.GROWING, 100_000),)),
    attention=((32, 128, 128),),
    layer_width=50_000,
    vocabulary=128_000,
    backend="metal",
)


def test_it_adds_up() -> None:
    assert PeakMemory(weights=1, caches=20, activations=300).total == 321


@pytest.mark.parametrize(
    ("backend", "head", "fused"),
    [("metal", 128, True), ("metal", 256, False), ("cpu", 128, False), ("cuda", 128, False)],
)
def test_scores_count_where_attention_is_not_fused(backend: str, head: int, fused: bool) -> None:
    traced = replace(TRACED, backend=backend, attention=((32, head, head),), layer_width=10**6)
    without = step_activations(replace(traced, attention=()), 32_768, 1, 2048)
    assert (step_activations(traced, 32_768, 1, 2048) == without) is fused


#: The model of `make bench-gpu` on an H200, mlx 0.32.4 (cuda13): prompts read together, tokens of each in one
#: step, rows by then, and GB by which memory rose during that step over what was held before and after it.
CUDA_STEPS = [
    *((1, 512, 1024, 0.93), (1, 512, 5120, 6.81), (1, 512, 8192, 12.21), (1, 512, 16_384, 15.34)),
    *((2, 512, 1024, 3.12), (2, 512, 5120, 13.45), (2, 512, 8192, 13.44), (1, 512, 9216, 12.67)),
    *((4, 512, 1024, 10.04), (4, 512, 5120, 18.2), (4, 512, 8192, 27.96), (4, 512, 12_288, 21.43)),
    *((8, 512, 1024, 13.43), (8, 512, 4096, 16.74), (8, 512, 6144, 22.41), (4, 512, 7168, 24.74)),
    *((1, 1024, 2048, 7.72), (1, 1024, 6144, 15.5), (1, 1024, 8192, 15.42), (1, 2048, 8192, 26.89)),
    *((2, 1024, 2048, 13.51), (2, 1024, 6144, 20.92), (2, 1024, 8192, 27.24), (8, 1024, 3072, 23.75)),
    *((4, 1024, 2048, 16.38), (4, 1024, 6144, 21.75), (4, 256, 4608, 12.88), (4, 256, 8192, 14.16)),
]


@pytest.mark.parametrize(("members", "step", "rows", "measured"), CUDA_STEPS)
def test_on_a_gpu_more_than_one_layer_is_under_way(
    members: int, step: int, rows: int, measured: float
) -> None:
    """Never less than was measured; small matrices of many prompts are what it has too much of."""
    traced = replace(TRACED, backend="cuda", layer_width=30_720)
    bound = step_activations(traced, rows, members, step) / 1e9
    assert measured <= bound <= 2.2 * measured + 1


def test_wide_attention_counts_where_the_layer_is_narrow() -> None:
    narrow = replace(TRACED, layer_width=10)
    assert step_activations(narrow, 0, 1, 1) == 0 + 14 * 32 * 128 * 2
    assert step_activations(TRACED, 0, 1, 1) == 2 * 50_000 * 2


def test_a_short_prompt_works_in_less_than_a_step() -> None:
    assert step_activations(TRACED, 10, 1, 2048) < step_activations(TRACED, 4096, 1, 2048) / 10


def test_it_grows_with_members_step_and_context() -> None:
    sizes = [
        step_activations(TRACED, *case)
        for case in ((4096, 1, 512), (4096, 1, 1024), (4096, 2, 1024), (8192, 2, 1024))
    ]
    assert sizes == sorted(set(sizes))


def test_the_next_token_is_chosen_among_the_whole_vocabulary() -> None:
    assert logits(TRACED) == 128_000 * 16
