"""The bound for untraceable models; that it holds for all architectures is a bar of the probe's benchmark."""

from __future__ import annotations

import pytest

from supervisor.bound import bound
from supervisor.cost import Kind, Law, Part
from tests import checkpoints

EXACT = {
    "llama": (checkpoints.LLAMA_70B, Law((Part(Kind.GROWING, 80 * 8 * 256 * 2),))),
    "gemma3": (
        checkpoints.GEMMA3_27B,
        Law((Part(Kind.WINDOW, 52 * 16 * 256 * 2, size=1024), Part(Kind.GROWING, 10 * 16 * 256 * 2))),
    ),
    "deepseek": (checkpoints.DEEPSEEK_V3, Law((Part(Kind.GROWING, 61 * 576 * 2),))),
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
