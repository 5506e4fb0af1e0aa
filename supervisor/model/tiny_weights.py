"""The weights of the embedded model: random, with one hidden coordinate reserved as a bias.

Coordinate 0 of the hidden state is the same for every token and no layer writes to it, so column 0 of the
output matrix is a bias on each token's logit. It prevents end-of-turn, special tokens and bytes that are not
text by themselves: the model generates valid UTF-8 up to max_tokens.

A scripted model says given texts. Its layers compute and fill the cache as usual but write nothing, so only
the last token determines the next one: each piece of a text leads to the piece after it, the last piece to
end-of-turn, and every other token (the end of any prompt) to the first piece.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
#: The tokens of each text, by the token that starts it (None: any other token).
Chains = Mapping[int | None, Sequence[int]]

#: The matrices through which a layer adds to the hidden state.
_WRITERS = ("o_proj.weight", "down_proj.weight", "out_proj.weight")
#: Bias of tokens that are never sampled at any usual temperature, since logits spread over a few units.
_FORBIDDEN = -100.0
#: Logit of a scripted token; the others stay some 15 % below, so by at least 60.
_CERTAIN = 400.0


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameter shapes by name, without evaluating, of the model that mlx_lm builds from a config.json."""
    from mlx.utils import tree_flatten  # noqa: PLC0415  (slow, and only needed to make a model)

    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(dict(config)))
    return {name: tuple(value.shape) for name, value in tree_flatten(model.parameters())}


def fill(
    config: Mapping[str, Any], seed: int, readable: Sequence[int], end: int, chains: Chains
) -> dict[str, Array]:
    """Make every parameter, in float32.

    Args:
        readable: tokens that a model without a script may generate.
        end: the end-of-turn token.
    """
    bits = np.random.PCG64(seed)
    weights = {
        name: _initial(name, shape, config, bits, scripted=bool(chains))
        for name, shape in sorted(shapes(config).items())
    }
    embedding, output = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    # Coordinates of unit variance, as large as what a layer adds: while the last token and the context are in
    # balance, the text neither repeats one word nor is the same for every prompt. Gemma scales its own input.
    width = np.float32(np.sqrt(embedding.shape[1]))
    unit = 1 / width if config["model_type"].startswith("gemma") else np.float32(1)
    embedding *= unit * width
    embedding[:, 0] = unit
    output[:, 0] = _FORBIDDEN
    if chains:
        _script(embedding, output, end, chains)
    else:
        output[list(readable), 0] = 0.0
    return weights


def _initial(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any], bits: np.random.PCG64, *, scripted: bool
) -> Array:
    if "norm" in name:  # gemma adds 1 to the stored value
        return np.full(shape, 0.0 if config["model_type"].startswith("gemma") else 1.0, np.float32)
    if name.endswith("A_log"):
        return np.zeros(shape, np.float32)
    if name.endswith("dt_bias"):
        return np.ones(shape, np.float32)
    values = _uniform(bits, shape)
    if name.endswith(_WRITERS):
        values *= np.float32(np.sqrt(2 / config["num_hidden_layers"]))  # all layers together add this much
        values[0 if not scripted else slice(None)] = 0.0
    return values


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...]) -> Array:
    """Values of zero mean and variance 1/fan-in, from raw bits and exact arithmetic.

    numpy guarantees the stream of a bit generator over versions and platforms, but not that of a
    distribution.
    """
    raw = np.asarray(bits.random_raw(int(np.prod(shape))) >> np.uint64(40), np.float32)
    scale = np.float32(2 * np.sqrt(3 / shape[-1]))
    return ((raw / np.float32(2**24) - np.float32(0.5)) * scale).reshape(shape)


def _script(embedding: Array, output: Array, end: int, chains: Chains) -> None:
    """Make `argmax(output @ norm(embedding[token]))` the next token of the texts.

    Tokens of the texts get random directions, and the others none; in 63 dimensions the cosine between any
    two of a few thousand stays below 0.8. The output row of each next token is the direction of the token
    before it.
    """
    scale = np.float32(_CERTAIN / np.sqrt(embedding.shape[1] / 2))
    directions = embedding[:, 1:].copy()
    embedding[:, 1:] = 0.0
    output[:, 1:] = 0.0
    for start, chain in chains.items():
        path = [*chain, end]
        if start is None:
            output[path[0], 0] = scale * np.float32(0.85)
        else:
            path.insert(0, start)
        for token, following in pairwise(path):
            direction = directions[token] / np.sqrt(np.sum(directions[token] ** 2))
            embedding[token, 1:] = embedding[token, 0] * direction
            output[following, 1:] += scale * direction
            output[following, 0] = max(output[following, 0], 0.0)
