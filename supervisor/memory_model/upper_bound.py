"""Pure. A cost model that is never too low, from config.json alone, for models that cannot be traced.

It takes every size that the configuration names at its largest, in float32, for every layer. So it may be
many times too high, and is always reported as a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind

_ITEM = 4
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_transformer_layers")
_HEADS = (
    "num_attention_heads",
    "num_heads",
    "n_heads",
    "n_head",
    "linear_num_value_heads",
    "mamba_num_heads",
)
_HEAD_SIZES = ("head_dim", "v_head_dim", "global_head_dim", "linear_value_head_dim", "kv_channels")
#: Their sum is the size of a compressed row of latent attention, or of a key made of its two halves.
_LATENT_SIZES = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "model_dim", "hidden_dim", "mamba_d_ssm", "intermediate_size")
_STATES = (
    "state_size",
    "ssm_state_size",
    "mamba_d_state",
    "d_state",
    "mamba_head_dim",
    "linear_key_head_dim",
)
#: Buffers of a layer: it may have two attentions (longcat_flash), each with a key and a value.
_BUFFERS = 4


def bound(config: Mapping[str, Any]) -> CostModel:
    """Build it from rows of full attention and a linear-attention state in every layer."""
    text = config.get("text_config")
    every = {**config, **text} if isinstance(text, dict) else dict(config)
    layers = max(_numbers(every, _LAYERS), default=1) * max(_numbers(every, ("num_loops",)), default=1)
    width = max(_numbers(every, _WIDTHS), default=1)
    heads = max(_numbers(every, _HEADS), default=1)
    size = max(*_numbers(every, _HEAD_SIZES), width // heads, sum(_numbers(every, _LATENT_SIZES)))
    row = layers * _BUFFERS * max(heads * size, width) * _ITEM
    state = max(*_numbers(every, _STATES), size, 16)
    return CostModel(
        (
            CachePart(GrowthKind.GROWING, row, itemsize=_ITEM, caches=layers),
            CachePart(GrowthKind.CONSTANT, row * state, itemsize=_ITEM, caches=layers),
        )
    )


def _numbers(config: Mapping[str, Any], names: Iterable[str]) -> list[int]:
    """The positive integers among the named values, those in lists (a size per layer) included."""
    found = (config.get(name) for name in names)
    flat = (each for value in found for each in (value if isinstance(value, list) else (value,)))
    return [each for each in flat if isinstance(each, int) and not isinstance(each, bool) and each > 0]
