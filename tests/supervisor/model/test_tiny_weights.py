"""The embedded model's weights as arithmetic: what no layer may touch, and what a script makes of it.

The shapes are written out here, since asking mlx_lm for them imports mlx; that the real server loads all
architectures and says what it should is in tests/real/test_tiny_served.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from supervisor.model import tiny_weights
from supervisor.model.tiny_weights import Array, fill

VOCAB, HIDDEN = 600, 64
END = VOCAB - 1
CONFIG = {"model_type": "qwen3", "num_hidden_layers": 2}
GEMMA = {"model_type": "gemma3_text", "num_hidden_layers": 2}
SHAPES = {
    "lm_head.weight": (VOCAB, HIDDEN),
    "model.embed_tokens.weight": (VOCAB, HIDDEN),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
    "model.layers.0.linear_attn.A_log": (2,),
    "model.layers.0.linear_attn.conv1d.weight": (192, 4, 1),
    "model.layers.0.linear_attn.dt_bias": (2,),
    "model.layers.0.linear_attn.out_proj.weight": (HIDDEN, 128),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, 128),
    "model.layers.0.self_attn.o_proj.weight": (HIDDEN, 128),
    "model.layers.0.self_attn.q_proj.weight": (128, HIDDEN),
}
WRITERS = [name for name in SHAPES if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight"))]


@pytest.fixture(autouse=True)
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_weights, "shapes", lambda config: SHAPES)


def test_weights_have_the_model_s_shapes_in_float32() -> None:
    weights = fill(CONFIG, 0, range(300), END, {})
    assert {name: value.shape for name, value in weights.items()} == SHAPES
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(value).all() for value in weights.values())


def test_projections_keep_the_variance_of_what_they_get() -> None:
    weight = fill(CONFIG, 0, (), END, {})["model.layers.0.self_attn.q_proj.weight"]
    assert np.var(weight) == pytest.approx(1 / HIDDEN, rel=0.05)
    assert abs(np.mean(weight)) < 0.01


def test_the_stream_of_random_bits_is_the_one_it_was() -> None:
    """Raw PCG64 bits and exact arithmetic: these values hold on every platform and numpy version."""
    weight = fill(CONFIG, 7, (), END, {})["lm_head.weight"]
    assert weight[0, 1:4].tolist() == [0.17199860513210297, 0.11937539279460907, -0.11898878961801529]


@pytest.mark.parametrize("config", [CONFIG, GEMMA])
def test_no_layer_writes_to_the_coordinate_of_the_bias(config: dict[str, Any]) -> None:
    weights = fill(config, 0, range(300), END, {})
    for name in WRITERS:
        assert not weights[name][0].any()
        assert weights[name][1:].any()
    assert len(set(weights["model.embed_tokens.weight"][:, 0])) == 1


@pytest.mark.parametrize("config", [CONFIG, GEMMA])
def test_only_readable_tokens_can_be_said(config: dict[str, Any]) -> None:
    readable = [5, 6, 7, 300]
    weights = fill(config, 0, readable, END, {})
    forbidden = np.setdiff1d(np.arange(VOCAB), readable)
    for token in range(VOCAB):
        logits = _logits(weights, token)
        assert logits[readable].min() > logits[forbidden].max() + 20


SCRIPT = {None: range(100, 350), 17: range(350, 590)}


@pytest.mark.parametrize("config", [CONFIG, GEMMA])
def test_a_script_is_said_to_its_end(config: dict[str, Any]) -> None:
    weights = fill(config, 0, range(300), END, SCRIPT)
    assert _say(weights, 3) == [*range(100, 350), END]
    assert _say(weights, 17) == [*range(350, 590), END]


@pytest.mark.parametrize("config", [CONFIG, GEMMA])
def test_a_script_leaves_no_doubt_at_any_temperature(config: dict[str, Any]) -> None:
    weights = fill(config, 0, range(300), END, SCRIPT)
    for token in range(VOCAB):
        second, first = np.sort(_logits(weights, token))[-2:]
        assert first - second > 40


def test_layers_of_a_scripted_model_write_nothing() -> None:
    weights = fill(CONFIG, 0, range(300), END, SCRIPT)
    assert not any(weights[name].any() for name in WRITERS)


@pytest.mark.parametrize("chains", [{None: []}, {None: [], 17: [4]}, {None: [4]}])
def test_short_scripts(chains: dict[int | None, list[int]]) -> None:
    weights = fill(CONFIG, 0, range(300), END, chains)
    assert _say(weights, 3) == [*chains[None], END]
    assert _say(weights, 17) == [*chains.get(17, chains[None]), END]


def _logits(weights: dict[str, Array], token: int) -> Array:
    """What a model whose layers write nothing makes of its last token."""
    hidden = weights["model.embed_tokens.weight"][token]
    return weights["lm_head.weight"] @ (hidden / np.sqrt(np.mean(hidden**2)))


def _say(weights: dict[str, Array], token: int) -> list[int]:
    said: list[int] = []
    while token != END and len(said) < VOCAB:
        token = int(np.argmax(_logits(weights, token)))
        said.append(token)
    return said
