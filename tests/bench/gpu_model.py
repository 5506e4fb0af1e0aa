"""A model of realistic size with random weights, made on the GPU: `python -m tests.bench.gpu_model DIR`.

The shape is that of a 4B dense transformer of today (36 layers, 8 KV heads of 128: 147,456 bytes of cache
per token in bfloat16), so weights, cache and transients are in the proportion that users see. Only the
tokenizer is the small one of the embedded model: what is said does not matter here, and every digit is
a token of its own, which makes prompts of an exact length. Imports mlx: a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

CONTEXT = 65536
VOCAB = 151936  # rows of the embedding; the tokenizer's own entries are the first of them
LAYERS = 36
LAYERS_PER_FILE = 6


def config(eos: int) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": VOCAB,
        "eos_token_id": [eos],
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def make(out: Path) -> None:
    """Make the model in the folder `out`."""
    from supervisor.model import tiny_tokenizer

    tokenizer = tiny_tokenizer.build(1024, (), CONTEXT)
    settings = config(tokenizer.ids[tiny_tokenizer.END_OF_TURN])
    out.mkdir(parents=True, exist_ok=True)
    for name, text in {**tokenizer.files, "config.json": json.dumps(settings, indent=1)}.items():
        (out / name).write_text(text, encoding="utf-8")
    _save_weights(out, settings, tokenizer.readable)


def _save_weights(out: Path, settings: Mapping[str, Any], readable: tuple[int, ...]) -> None:
    """File by file: nothing is evaluated before it is saved, so one file's weights exist at a time."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3

    model = qwen3.Model(qwen3.ModelArgs.from_dict(dict(settings)))
    shapes = {name: value.shape for name, value in tree_flatten(model.parameters())}
    mx.random.seed(0)
    files: dict[int, dict[str, Any]] = {}
    for name, shape in shapes.items():
        files.setdefault(_file_of(name), {})[name] = _initial(mx, name, shape)
    mask = mx.zeros((VOCAB, 1), mx.bfloat16)
    mask[mx.array(readable)] = 1
    # The largest logit is above 0, so a greedy answer is readable text that never ends by itself.
    files[-1]["lm_head.weight"] *= mask
    for number in list(files):
        path = out / f"model-{number + 1:05d}.safetensors"
        mx.save_safetensors(str(path), files.pop(number), {"format": "mlx"})


def _file_of(name: str) -> int:
    parts = name.split(".")
    return int(parts[2]) // LAYERS_PER_FILE if parts[1] == "layers" else -1


def _initial(mx: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Variance 1/fan-in; what all layers together add is as large as the embedding."""
    if "norm" in name:
        return mx.ones(shape, mx.bfloat16)
    scale = 1.0 if "embed" in name else 1 / sqrt(shape[-1])
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        scale *= sqrt(2 / LAYERS)
    return mx.random.normal(shape, mx.bfloat16, scale=scale)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
