"""What the child holds at its fullest, for sequences of one length: weights, caches, working memory. Pure.

The caches' bytes are exact (`cost.py`). The rest starts from the architecture: how many copies of a cache
live at once, and what reading one step of a prompt takes. It is an estimate on the large side.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.cost import Law, prefill, rounded

#: Copies of a finished sequence that live at once: its rows in the running batch, and its entry in the
#: prompt cache (1.75 to 2 times its KV stays active after a request; measured at 2k to 128k tokens).
COPIES_ALONE = 2.0
#: The same with several: each finisher pins the padded buffer that it left (1.4 to 3 times were measured).
COPIES_TOGETHER = 3.0
#: Elements of a layer's activations that live at once, as a multiple of the outputs of its linear maps.
_ACTIVATIONS = 2
#: Score matrices that live at once where attention is not fused. CUDA: from one model on an H200, whose
#: 128k prompt peaked at 126 GB with 14.7 GB of KV.
_SCORES = {"cuda": 11, "metal": 2, "cpu": 2}
#: Head sizes of Metal's fused kernel for prompts (mlx/backend/metal/scaled_dot_product_attention.cpp).
_FUSED_HEADS = (64, 80, 128)
#: Causal masks: a boolean per query and key, and the comparisons that it is made from.
_MASK_BYTES = 3
#: Logits, their logarithms and a copy or two for sampling, in float32.
_LOGITS_BYTES = 4 * 4


@dataclass(frozen=True, slots=True)
class Traced:
    """What the probe found out about a model (`probe.py`).

    Attributes:
        law: what one sequence costs.
        reason: why the law is only a bound; None when it is exact.
        batched: the server can run several requests of this model together.
        rotating: some layers have a window, which `--kv-bits` cannot quantize.
        attention: (query heads, key size, value size) of each kind of attention.
        layer_width: elements that one token's activations have in the widest layer.
        backend: "metal", "cuda" or "cpu".
        working_set: bytes that Metal recommends.
    """

    law: Law
    reason: str | None = None
    batched: bool = True
    rotating: bool = False
    attention: tuple[tuple[int, int, int], ...] = ()
    layer_width: int = 0
    vocabulary: int = 0
    itemsize: int = 2
    backend: str = "cpu"
    working_set: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """What the estimate needs to know of the child.

    Attributes:
        weights: bytes of the model, the draft model and the adapter.
        law: what one sequence costs in the caches, those of the draft model included.
        batched: requests can run together; where not, they run one after the other.
    """

    weights: int
    law: Law
    traced: Traced
    batched: bool


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes."""

    weights: int
    caches: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.working


def peak(model: Model, rows: int, members: int, step: int) -> Peak:
    """The fullest moment of `members` sequences that grow to `rows` rows each."""
    copies = COPIES_ALONE if members == 1 else COPIES_TOGETHER
    one = max(model.law.cold(rows, step), model.law.peak(prefill(rows, step)))
    return Peak(
        weights=model.weights,
        caches=round(copies * members * one),
        working=working(model.traced, rows, min(members, 2), step),
    )


def working(traced: Traced, rows: int, members: int, step: int) -> int:
    """Bytes that reading one step of the prompts of `members` takes beside the caches, at `rows` rows."""
    tokens = members * min(step, max(rows, 1))
    context = rounded(rows)
    scores = max((_scores(traced, *attention) for attention in traced.attention), default=0)
    per_token = traced.layer_width * _ACTIVATIONS * traced.itemsize + context * (scores + _MASK_BYTES)
    return tokens * per_token + members * traced.vocabulary * _LOGITS_BYTES


def _scores(traced: Traced, heads: int, key: int, value: int) -> int:
    """Bytes of attention scores per query and key."""
    if traced.backend == "metal" and key == value and key in _FUSED_HEADS:
        return 0
    return heads * traced.itemsize * _SCORES[traced.backend]


def largest(model: Model, ceiling: int, members: int, step: int, most: int) -> int:
    """The most rows that each of `members` sequences can have under `ceiling` bytes, at most `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if peak(model, middle, members, step).total <= ceiling:
            low = middle
        else:
            high = middle - 1
    return low
