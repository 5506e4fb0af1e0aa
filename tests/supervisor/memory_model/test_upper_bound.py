"""The bound for untraceable models; `make bench WHAT=probe` checks it for all architectures."""

from __future__ import annotations

import pytest

from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.upper_bound import bound
from tests.support import checkpoints

EXACT = {
    "llama": (checkpoints.LLAMA_70B, CostModel((CachePart(GrowthKind.GROWING, 80 * 8 * 256 * 2),))),
    "gemma3": (
        checkpoints.GEMMA3_27B,
        CostModel(
            (
                CachePart(GrowthKind.WINDOW, 52 * 16 * 256 * 2, size=1024),
                CachePart(GrowthKind.GROWING, 10 * 16 * 256 * 2),
            )
        ),
    ),
    "deepseek": (checkpoints.DEEPSEEK_V3, CostModel((CachePart(GrowthKind.GROWING, 61 * 576 * 2),))),
}


@pytest.mark.parametrize("name", EXACT)
def test_it_is_never_below_the_truth(name: str) -> None:
    config, exact = EXACT[name]
    for rows in (1, 257, 4096, 100_000):
        assert bound(config).cold(rows) >= exact.cold(rows)


def test_it_needs_nothing_in_particular() -> None:
    assert bound({}).cold(1) > 0


def test_sizes_that_differ_by_layer_count_at_their_largest() -> None:
    uneven = bound({"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": [2, 8], "head_dim": 32})
    even = bound({"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "head_dim": 32})
    assert uneven == even
