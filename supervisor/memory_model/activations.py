"""What a child's memory is made of: weights, caches, and what one step of a prompt works in. Pure.

The caches' bytes are exact (`cost.py`); how many of them live at once is told by `batch.py`. What a step
works in is estimated from the architecture, with factors measured on the CPU build.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.kv_cache import CostModel

#: Elements of a layer's activations that live at once, as a multiple of the outputs of its linear maps,
_ACTIVATIONS = 2
#: or of the elements of its queries, where they take more: queries, keys and values, each as projected, as
#: turned by its position and as laid out for attention, and what comes out. Both were measured on the CPU
#: build, for one to eight prompts of 128 to 1,024 tokens a step; on Metal neither was.
_ATTENTION = 14
#: Head sizes of Metal's fused kernel for prompts (mlx/backend/metal/scaled_dot_product_attention.cpp).
_FUSED_HEADS = (64, 80, 128)
#: Causal masks: a boolean per query and key, and the comparisons that it is made from.
_MASK_BYTES = 3
#: Logits, their logarithms and a copy or two for sampling, in float32.
_LOGITS_BYTES = 4 * 4


@dataclass(frozen=True, slots=True)
class _InFlight:
    """What lives at once, for a backend that is given work before it has done, and freed, what came before.

    Attributes:
        layers: layers' activations.
        most: matrices of attention scores, as long as they are small;
        size: more than so many bytes of them only where `least` matrices are larger.
    """

    layers: int
    most: int
    size: int
    least: int


#: CUDA: from one model on an H200 with mlx 0.32.4, which ends a graph of calls by their number and bytes and
#: has several under way; 26 steps of 1 to 8 prompts, and one prompt of 128k. CPU: measured. Metal: not.
_IN_FLIGHT = {
    "cuda": _InFlight(layers=16, most=46, size=26 * 10**9, least=12),
    "metal": _InFlight(layers=1, most=2, size=0, least=2),
    "cpu": _InFlight(layers=1, most=2, size=0, least=2),
}


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
        layers: caches that grow with the prompt.
    """

    law: CostModel
    reason: str | None = None
    batched: bool = True
    rotating: bool = False
    attention: tuple[tuple[int, int, int], ...] = ()
    layer_width: int = 0
    vocabulary: int = 0
    itemsize: int = 2
    backend: str = "cpu"
    working_set: int | None = None
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Model:
    """What the estimate needs to know of the child.

    Attributes:
        weights: bytes of the model, the draft model and the adapter.
        law: what one sequence costs in the caches, those of the draft model included.
        batched: requests can run together; where not, they run one after the other.
    """

    weights: int
    law: CostModel
    traced: Traced
    batched: bool


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes."""

    weights: int
    caches: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.working


def working(traced: Traced, rows: int, members: int, step: int) -> int:
    """Bytes that reading one step of the prompts of `members` takes beside the caches, up to `rows` rows."""
    tokens = members * min(step, max(rows, 1))
    flight = _IN_FLIGHT[traced.backend]
    matrix = tokens * rows * max((_scores(traced, *attention) for attention in traced.attention), default=0)
    scores = max(flight.least * matrix, min(flight.most * matrix, flight.size))
    queries = max((heads * key for heads, key, _ in traced.attention), default=0)
    elements = max(traced.layer_width * _ACTIVATIONS, queries * _ATTENTION)
    return scores + tokens * (flight.layers * elements * traced.itemsize + rows * _MASK_BYTES)


def logits(traced: Traced) -> int:
    """Bytes that choosing one sequence's next token takes; while a prompt is read, none are worked out."""
    return traced.vocabulary * _LOGITS_BYTES


def _scores(traced: Traced, heads: int, key: int, value: int) -> int:
    """Bytes of one matrix of attention scores, per query and key; none where attention is fused."""
    if traced.backend == "metal" and key == value and key in _FUSED_HEADS:
        return 0
    return heads * traced.itemsize
