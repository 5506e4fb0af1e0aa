"""Traces a model's KV cost from shapes, without weights: `python -m supervisor.tracing.trace FOLDER`.

MLX is lazy, so a model that is built and called but never evaluated knows the shape of every cache array, and
uses neither memory nor time. This program runs in a short-lived process: it imports mlx, and some
architectures run code, or evaluate, when they are imported or called. It writes one JSON document to stdout.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from supervisor.memory_model.kv_cache import CostModel, GrowthKind
from supervisor.model.resolve import tensor_dtypes
from supervisor.tracing.cache_classes import Untraceable, leaves, parts_of

#: Names in config.json for the experts that each token goes through.
_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_top_k", "moe_k")
#: mlx's name of each type, by its name in safetensors.
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
#: Seconds between two looks at this process's memory.
_WATCH_S = 0.05


def trace(config: dict[str, Any], dtypes: dict[str, str], folder: Path | None = None) -> dict[str, Any]:
    """Trace one config.json; returns the fields of `Traced` without the device's, ready for JSON.

    Args:
        config: the configuration as mlx_lm loads it.
        dtypes: types of the checkpoint's tensors by name, as safetensors names them; may be empty.
        folder: the folder of the code that comes with the model, if that may be run.

    Raises:
        Untraceable: the model cannot be built or called, or its caches behave in no known way.
    """
    import mlx.core as mx  # noqa: PLC0415

    stand_in_for_kernels(mx)
    attention = _record_attention(mx)
    try:
        model, modules = _build(mx, config, dtypes, folder)
        parts = parts_of(partial(_fed, mx, model))
    except Untraceable:
        raise
    except (Exception, SystemExit) as error:  # over a hundred architectures raise anything
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    layers = sum(1 for leaf, _ in leaves(_fed(mx, model, ())) if type(leaf).__name__ != "ArraysCache")
    return {
        "cost_model": asdict(CostModel(parts)),
        "batched": all(hasattr(cache, "merge") for cache in _fed(mx, model, ())),
        "rotating": any(part.kind is GrowthKind.WINDOW for part in parts),
        "attention": sorted(attention),
        "layers": max(1, layers),
        "layer_width": _layer_width(config, modules),
        "vocabulary": _text(config).get("vocab_size") or 0,
        "itemsize": getattr(mx, _DTYPES[_common_dtype(config, dtypes)]).size,
    }


def stand_in_for_kernels(mx: Any) -> None:
    """Replace custom Metal kernels, which other builds refuse, by functions with the same output shapes."""

    def make(*_: Any, **__: Any) -> Any:
        def kernel(*, output_shapes: Any, output_dtypes: Any, **_: Any) -> list[Any]:
            return [mx.zeros(s, dtype=d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return kernel

    mx.fast.metal_kernel = make


def _record_attention(mx: Any) -> set[tuple[int, int, int]]:
    """Collect (query heads, key size, value size) of each attention that is called from now on."""
    seen: set[tuple[int, int, int]] = set()
    real = mx.fast.scaled_dot_product_attention

    def recording(q: Any, k: Any, v: Any, **options: Any) -> Any:
        seen.add((q.shape[1], q.shape[-1], v.shape[-1]))
        return real(q, k, v, **options)

    mx.fast.scaled_dot_product_attention = recording
    return seen


def _build(
    mx: Any, config: dict[str, Any], dtypes: dict[str, str], folder: Path | None
) -> tuple[Any, dict[str, Any]]:
    """Build the model as `mlx_lm.utils.load_model` does, with parameters that use no memory."""
    from mlx.utils import tree_flatten, tree_unflatten  # noqa: PLC0415

    model_class, args = _classes(config, folder)
    model = model_class(args.from_dict(config))
    converted = getattr(model, "cast_predicate", lambda _: True)  # False: mlx_lm.convert leaves it in float32
    common = _common_dtype(config, dtypes)

    def parameter(name: str, array: Any) -> Any:
        if not mx.issubdtype(array.dtype, mx.floating):
            return mx.broadcast_to(mx.zeros((), array.dtype), array.shape)
        stored = dtypes.get(name)
        found = stored if stored in _DTYPES else (common if converted(name) else "F32")
        return mx.broadcast_to(mx.zeros((), getattr(mx, _DTYPES[found])), array.shape)

    modules = dict(model.named_modules())
    named = [(name, parameter(name, array)) for name, array in tree_flatten(model.parameters())]
    model.update(tree_unflatten(named))
    model.eval()  # gated-delta models run different code in training
    return model, modules


def _classes(config: dict[str, Any], folder: Path | None) -> tuple[Any, Any]:
    from mlx_lm.utils import _get_classes  # noqa: PLC0415 - there is no public name for it

    file = config.get("model_file")
    if file is None:
        classes: tuple[Any, Any] = _get_classes(config)
        return classes
    if folder is None:
        raise Untraceable("it comes with its own code, which model.trust_remote_code does not allow")
    spec = importlib.util.spec_from_file_location("custom_model", folder / file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model, module.ModelArgs


def _common_dtype(config: dict[str, Any], dtypes: dict[str, str]) -> str:
    """The type of most tensors in the checkpoint, or the one in config.json; fp8 is unpacked to bfloat16."""
    counts = [name for name in dtypes.values() if name in _DTYPES]
    if counts:
        return max(sorted(set(counts)), key=counts.count)
    named = _text(config).get("torch_dtype") or _text(config).get("dtype")
    return next((short for short, name in _DTYPES.items() if name == named), "BF16")


def _text(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def _fed(mx: Any, model: Any, chunks: Iterable[int]) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache  # noqa: PLC0415

    caches: list[Any] = make_prompt_cache(model)
    for chunk in chunks:
        model(mx.zeros((1, chunk), dtype=mx.int32), cache=caches)
    return caches


def _layer_width(config: dict[str, Any], modules: dict[str, Any]) -> int:
    """Elements of one token's activations in the widest layer: the outputs of its linear maps."""
    text = _text(config)
    experts = next((text[name] for name in _EXPERTS if isinstance(text.get(name), int)), 1)
    widths: dict[str, int] = {}
    for path, module in modules.items():
        weight = module.get("weight") if isinstance(module, dict) else None
        layer = _layer_of(path)
        if layer is not None and weight is not None and weight.ndim in (2, 3):
            outputs = weight.shape[-2] * (experts if weight.ndim == 3 else 1)
            widths[layer] = widths.get(layer, 0) + outputs
    return max(widths.values(), default=0)


def _layer_of(path: str) -> str | None:
    """`model.layers.3` of `model.layers.3.mlp.up_proj`; None outside the layers."""
    words = path.split(".")
    number = next((index for index, word in enumerate(words) if word.isdigit()), None)
    return None if number is None else ".".join(words[: number + 1])


def device(mx: Any) -> dict[str, Any]:
    """The backend, and the working set that Metal recommends, in bytes: two fields of `Traced`."""
    info = mx.device_info()
    cuda = hasattr(mx, "cuda") and mx.cuda.is_available()
    return {
        "backend": "metal" if mx.metal.is_available() else "cuda" if cuda else "cpu",
        "working_set": info.get("max_recommended_working_set_size"),
    }


def _limit_memory(limit: int) -> None:
    """End this process above `limit` bytes, since some models evaluate. Polls: macOS enforces no limit."""
    unit = 1 if sys.platform == "darwin" else 1024

    def watch() -> None:
        while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < limit:
            time.sleep(_WATCH_S)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    """Trace one folder. Exit code 0 with a document, also when the model cannot be traced; 3: too large."""
    parser = argparse.ArgumentParser(prog="supervisor.tracing.trace", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--max-memory", type=int, default=4 * 2**30, metavar="BYTES")
    options = parser.parse_args(argv)
    _limit_memory(options.max_memory)
    import mlx.core as mx  # noqa: PLC0415

    document: dict[str, Any] = {"device": device(mx)}
    mx.set_default_device(mx.cpu)  # a trace needs no GPU, and the GPU may be full
    output, sys.stdout = sys.stdout, sys.stderr  # output of the model's code is not the document
    config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
    trusted = options.folder if options.trust_remote_code else None
    try:
        document |= {"traced": trace(config, tensor_dtypes(options.folder), trusted)}
    except Untraceable as reason:
        document |= {"traced": None, "reason": str(reason)}
    output.write(json.dumps(document) + "\n")
    output.flush()
    os._exit(0)  # freeing the lazy graph of a large model takes longer than building it


if __name__ == "__main__":
    sys.exit(main())
