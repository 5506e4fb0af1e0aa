"""Pure. The parts of a child's memory: weights, caches, and the activations of one prefill step.

The bytes of the caches are exact (`kv_cache.py`); `batch.py` says how many of them live at once. Activations
are estimated from the architecture, with factors that were measured on the CPU build.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.kv_cache import CostModel

#: Elements of a layer's activations that live at once, as a multiple of the outputs of its linear maps.
#: Measured on the CPU build, for one to eight prompts of 128 to 1,024 tokens a step; not measured on Metal.
_ACTIVATIONS = 2
#: The same as a multiple of the elements of the queries, used where that is more: queries, keys and values,
#: each as projected, as turned by its position and as laid out for attention, and the result. Measured
#: likewise.
_ATTENTION = 14
#: Head sizes of Metal's fused kernel for prompts (mlx/backend/metal/scaled_dot_product_attention.cpp).
_FUSED_HEADS = (64, 80, 128)
#: Bytes of causal masks per query and key: a boolean, and the comparisons that it is made from.
_MASK_BYTES = 3
#: Bytes of float32 logits, their logarithms and a copy or two for sampling, per entry of the vocabulary.
_LOGITS_BYTES = 4 * 4


@dataclass(frozen=True, slots=True)
class _InFlight:
    """What lives at once on a backend that receives new work before earlier work is done and freed."""

    layers: int  # layers whose activations live
    most: int  # matrices of attention scores that live, as long as they are small
    size: int  # bytes of matrices that are not exceeded, unless `least` matrices are larger
    least: int


#: CUDA: from one model on an H200 with mlx 0.32.4, which ends a graph of calls by their number and bytes and
#: has several under way; 26 steps of 1 to 8 prompts, and one prompt of 128k. CPU: measured. Metal: not
#: measured.
_IN_FLIGHT = {
    "cuda": _InFlight(layers=16, most=46, size=26 * 10**9, least=12),
    "metal": _InFlight(layers=1, most=2, size=0, least=2),
    "cpu": _InFlight(layers=1, most=2, size=0, least=2),
}


@dataclass(frozen=True, slots=True)
class Traced:
    """What a trace has found out about a model (`supervisor.tracing`)."""

    cost_model: CostModel
    reason: str | None = None  # why the cost model is only an upper bound; None when it is exact
    batched: bool = True  # the server can run several requests of this model together
    rotating: bool = False  # some layers have a window, which `--kv-bits` cannot quantize
    attention: tuple[tuple[int, int, int], ...] = ()  # (query heads, key size, value size) of each kind
    layer_width: int = 0  # elements of one token's activations in the widest layer
    vocabulary: int = 0
    itemsize: int = 2
    backend: str = "cpu"  # or "metal" or "cuda"
    working_set: int | None = None  # bytes that Metal recommends
    layers: int = 1  # caches that grow with the prompt


@dataclass(frozen=True, slots=True)
class Model:
    """What the estimate needs to know of the child."""

    weights: int  # bytes of the model, the draft model and the adapter
    cost_model: CostModel  # includes the caches of the draft model
    traced: Traced
    batched: bool  # requests can run together; otherwise they run one after the other


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The parts of a peak, in bytes."""

    weights: int
    caches: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.activations


def step_activations(traced: Traced, rows: int, members: int, step: int) -> int:
    """Bytes, without the caches, of one prefill step of `members` prompts that ends at `rows` rows."""
    tokens = members * min(step, max(rows, 1))
    flight = _IN_FLIGHT[traced.backend]
    matrix = tokens * rows * max((_scores(traced, *attention) for attention in traced.attention), default=0)
    scores = max(flight.least * matrix, min(flight.most * matrix, flight.size))
    queries = max((heads * key for heads, key, _ in traced.attention), default=0)
    elements = max(traced.layer_width * _ACTIVATIONS, queries * _ATTENTION)
    return scores + tokens * (flight.layers * elements * traced.itemsize + rows * _MASK_BYTES)


def logits(traced: Traced) -> int:
    """Bytes needed to choose one sequence's next token; prefill steps compute no logits."""
    return traced.vocabulary * _LOGITS_BYTES


def _scores(traced: Traced, heads: int, key: int, value: int) -> int:
    """Bytes of one matrix of attention scores, per query and key; none where attention is fused."""
    if traced.backend == "metal" and key == value and key in _FUSED_HEADS:
        return 0
    return heads * traced.itemsize
