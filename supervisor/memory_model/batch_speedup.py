"""Pure. The batching speed-up: tokens/s of several sequences against one, over an agent's turn.

A decode step reads the weights once for all sequences and the KV of each; the bytes that it reads determine
its time. Reading prompts together gains nothing. Measured on the CPU build only: for Metal and CUDA it is
arithmetic, for machines where memory bandwidth limits generation.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.activations import Model


@dataclass(frozen=True, slots=True)
class _Pace:
    """The relative speeds of a backend; overheads are expressed as the bytes that could be read meanwhile."""

    fixed: int  # overhead of a step (calls, kernels, Python)
    layer: int  # overhead of each of its layers
    reads: float  # prompt tokens that are read in the time in which one token is generated


#: The fixed overhead is some 5 ms at 100 GB/s.
_LIMITED_BY_MEMORY = _Pace(fixed=500_000_000, layer=0, reads=16)
_PACES = {
    "metal": _LIMITED_BY_MEMORY,
    "cuda": _LIMITED_BY_MEMORY,
    # Attention limits it, in prefill and decode alike. With two layers, at 1,220 rows of 16 KB, a step takes
    # 4.1, 6.6 and 11.5 ms of one core for 1, 2 and 4 sequences, and a token of a prompt 1.1 ms.
    "cpu": _Pace(fixed=0, layer=5_000_000, reads=3),
}
#: Tokens of an agent's turn: a tool's result is read, and the next step is generated.
_READ, _WRITTEN = 1000, 200


def speedup(model: Model, rows: int, members: int) -> float:
    """Upper bound on the tokens/s of `members` sequences of `rows` rows together, as a multiple of one.

    Padding makes the KV of each as long as the longest. A mixture of experts gains less, since more sequences
    use more experts.
    """
    pace = _PACES[model.traced.backend]
    one, shared = model.cost_model.cold(rows), pace.fixed + pace.layer * model.traced.layers + model.weights
    writing = members * (shared + one) / (shared + members * one)
    reading = _READ / pace.reads
    return (reading + _WRITTEN) / (reading + _WRITTEN / writing)
