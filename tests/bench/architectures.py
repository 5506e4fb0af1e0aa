"""A tiny config.json for every architecture of the installed mlx-lm, from the fields of its ModelArgs.

Most fields mean the same everywhere and are filled by their names; what an architecture wants beside that
is in `PARTICULAR`. Imports mlx: for short-lived processes only.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

LAYERS = 4
HIDDEN = 64
HEADS = 4
HEAD_DIM = 16
WINDOW = 160

#: Field -> value, where one value does for every architecture. Head sizes of linear attention are 32, since
#: the kernels take multiples of that.
_VALUES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "padded_vocab_size", "vocab_size_per_layer_input"), 128),
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "n_embd", "model_dim", "emb_dim"), HIDDEN),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_transformer_layers"), LAYERS
    ),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_attention_groups"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "hidden_size_per_head"), HEAD_DIM),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("intermediate_size", "ff_intermediate_size", "n_inner", "block_ff_dim"), 128),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32
    ),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(
        ("n_group", "topk_group", "first_k_dense_replace", "moe_layer_freq", "decoder_sparse_step"), 1
    ),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "model_max_length"), 16384),
    **dict.fromkeys(
        ("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), WINDOW
    ),
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps", "layernorm_epsilon"), 1e-5
    ),
    **dict.fromkeys(("rope_theta", "swa_rope_theta", "rope_local_base_freq", "rotary_emb_base"), 10000.0),
    **dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads"), 2
    ),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("conv_kernel", "linear_conv_kernel_dim", "mamba_d_conv", "conv1d_width", "d_conv"), 4),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "d_state"), 16),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "mamba_expand"), 1),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), 0.5),
    "mlp_only_layers": [],
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "layer_types": ["full_attention", "sliding_attention"] * (LAYERS // 2),
    "sliding_window_pattern": 2,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "group_norm_size": 2,
    "layer_group_size": 2,
    "full_attention_interval": 2,
}
_BY_TYPE = {"int": 2, "float": 1.0, "bool": False, "str": "", "list": [], "dict": {}}

_FULL_AND_LINEAR = ["attention", "mamba"] * (LAYERS // 2)
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_YARN = {
    **_ROPE,
    "type": "yarn",
    "rope_type": "yarn",
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "llama_4_scaling_beta": 0.1,
}
_ROPE_BY_TYPE = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_LINEAR_ATTENTION = {
    "kda_layers": [2, 4],
    "full_attn_layers": [1, 3],
    "num_heads": 2,
    "head_dim": 32,
    "short_conv_kernel_size": 4,
}
_NAS_BLOCK = {
    "attention": {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False},
    "ffn": {"ffn_mult": 2.0, "no_op": False, "replace_with_linear": False},
}

_PACKED = {
    "path": "model.layers.0.mlp.down_proj",
    "embedding": False,
    "dtype": "float16",
    "block": 0,
}

#: Module -> what it needs beside the values above.
_PARTICULAR: dict[str, dict[str, Any]] = {
    "baichuan_m1": {"sliding_window_layers": [1, 3], "conv_window": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": _YARN},
    "deepseek_v41": {
        "compress_ratios": [1, 4, 4, 1],
        "kv_source_layer_ids": [0, 1, 2, 3],
        "index_source_layer_ids": [0, 1, 2, 3],
        "o_groups": 2,
        "o_lora_rank": 16,
    },
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True] * (LAYERS // 2)},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n": {
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "num_kv_shared_layers": 2,
        "altup_num_inputs": 2,
        "altup_active_idx": 0,
        "laurel_rank": 8,
        "hidden_size_per_layer_input": 16,
        "final_logit_softcapping": 30.0,
    },
    "gemma4_text": {"num_kv_shared_layers": 2, "global_head_dim": 32, "hidden_size_per_layer_input": 16},
    "glm4_moe": {"rope_scaling": {}},
    "glm_moe_dsa": {"rope_parameters": _ROPE, "topk_method": "noaux_tc"},
    "granitemoehybrid": {"layer_types": _FULL_AND_LINEAR},
    "hunyuan": {
        "use_cla": True,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1.0},
        "cla_share_factor": 2,
    },
    "jamba": {"layers_block_type": _FULL_AND_LINEAR, "attn_layer_period": 2, "expert_layer_period": 2},
    "kimi_k3": {"num_experts_per_token": 2, "linear_attn_config": _LINEAR_ATTENTION},
    "kimi_linear": {"linear_attn_config": _LINEAR_ATTENTION},
    "lfm2": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2), "block_dim": HIDDEN},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "llama4": {
        "num_experts_per_tok": 1,
        "rope_scaling": _ROPE,
        "no_rope_layers": [1] * LAYERS,
        "attention_chunk_size": WINDOW,
        "interleave_moe_layer_step": 2,
    },
    "llama4_text": {"no_rope_layers": [1] * LAYERS},
    "longcat_flash": {"zero_expert_type": "identity", "mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "longcat_flash_ngram": {
        "zero_expert_type": "identity",
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "mamba2": {"time_step_limit": [0.0, 100.0], "time_step_rank": "auto"},
    "mellum": {"rope_parameters": _ROPE_BY_TYPE},
    "mimo_v2_flash": {
        "topk_method": "noaux_tc",
        "moe_layer_freq": [0, 1] * (LAYERS // 2),
        "hybrid_layer_pattern": [0, 1] * (LAYERS // 2),
        "swa_num_attention_heads": HEADS,
        "swa_head_dim": HEAD_DIM,
        "swa_v_head_dim": HEAD_DIM,
    },
    "minimax_m3_vl": {"moe_layer_freq": [0, 1] * (LAYERS // 2)},
    "minicpm3": {"rope_scaling": {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}},
    "ministral3": {"rope_parameters": _YARN},
    "mistral4": {"rope_parameters": _YARN},
    "muse_spark": {
        "rope_parameters": _ROPE,
        "layer_rope_theta": [10000.0] * LAYERS,
        "moe_hidden_size": 64,
        "num_shared_experts": 0,
    },
    "nemotron-nas": {"block_configs": [_NAS_BLOCK] * LAYERS},
    "nemotron_h": {"layer_types": None, "hybrid_override_pattern": ["M", "*", "-", "E"]},
    "openelm": {
        "num_query_heads": [HEADS] * LAYERS,
        "num_kv_heads": [2] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
        "ffn_dim_divisor": 8,
    },
    "phi3small": {"vocab_size": 100352},  # it masks tokens of its real vocabulary by number
    "plamo": {"n_shared_head": 2},
    "prism_hadamard_qwen35": {
        "num_experts": 0,
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [_PACKED],
    },
    "qwen": {"kv_channels": HEAD_DIM},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "spark2_5": {"rope_parameters": _ROPE_BY_TYPE},
}

#: Module -> where the fields of its `text_config` are, as module and class.
_TEXT: dict[str, tuple[str, str]] = {
    "gemma3": ("gemma3_text", "ModelArgs"),
    "gemma3n": ("gemma3n", "TextConfig"),
    "gemma4": ("gemma4_text", "ModelArgs"),
    "kimi_k25": ("deepseek_v3", "ModelArgs"),
    "kimi_k3": ("kimi_k3", "TextArgs"),
    "kimi_vl": ("kimi_vl", "TextArgs"),
    "lfm2-vl": ("lfm2", "ModelArgs"),
    "llama4": ("llama4", "TextArgs"),
    "minimax_m3_vl": ("minimax_m3_vl", "TextArgs"),
    "mistral3": ("ministral3", "ModelArgs"),
    "muse_spark": ("muse_spark", "TextArgs"),
    "pixtral": ("llama", "ModelArgs"),
    "prism_hadamard_qwen35": ("qwen3_5", "TextModelArgs"),
    "qwen2_vl": ("qwen2", "ModelArgs"),
    "qwen3_5": ("qwen3_5", "TextModelArgs"),
    "qwen3_5_moe": ("qwen3_5", "TextModelArgs"),
    "qwen3_vl": ("qwen3", "ModelArgs"),
    "qwen3_vl_moe": ("qwen3_moe", "ModelArgs"),
}


def architectures() -> list[str]:
    """Modules of mlx_lm.models that hold a model, in alphabetical order."""
    from mlx_lm import models

    names = [module.name for module in pkgutil.iter_modules(models.__path__)]
    return [name for name in sorted(names) if _holds_model(name)]


def _holds_model(name: str) -> bool:
    return "class Model(" in _source(name)


def _source(name: str) -> str:
    from pathlib import Path

    from mlx_lm import models

    return (Path(models.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")


def config(name: str) -> dict[str, Any]:
    """A config.json that makes a tiny model of this architecture. Raises SystemExit where the module does."""
    filled = _filled(name, "ModelArgs")
    if name in _TEXT:
        module, args = _TEXT[name]
        filled["text_config"] = {**_filled(module, args), **_PARTICULAR.get(name, {})}
    return {**filled, "model_type": name}


def _filled(module: str, args: str) -> dict[str, Any]:
    fields = dataclasses.fields(getattr(importlib.import_module(f"mlx_lm.models.{module}"), args))
    values = {field.name: value for field in fields if (value := _value(field)) is not None}
    return {**values, "model_type": module, **_PARTICULAR.get(module, {})}


def _value(field: dataclasses.Field[Any]) -> Any:
    if field.name in _VALUES:
        return _VALUES[field.name]
    if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
        return None
    kind = getattr(field.type, "__name__", str(field.type))
    return _BY_TYPE.get(kind.lower())
