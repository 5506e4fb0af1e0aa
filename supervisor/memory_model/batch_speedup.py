"""What running several sequences together gains in tokens/s, over a turn that is read and written. Pure.

A step of generation reads the weights once for all, and each one's KV; it takes its time by the bytes that it
reads. Reading prompts together gains nothing. Measured on the CPU build only: for Metal and CUDA it is
arithmetic, for machines whose memory's speed limits generation.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.activations import Model


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast a backend is at one thing, against another.

    Attributes:
        fixed, layer: what a step takes whatever it reads (calls, kernels, Python), and each layer's part of
            that, as bytes that it could have read.
        reads: tokens of a prompt that are read while one token of an answer is generated.
    """

    fixed: int
    layer: int
    reads: float


#: Some 5 ms at 100 GB/s.
_LIMITED_BY_MEMORY = _Pace(fixed=500_000_000, layer=0, reads=16)
_PACES = {
    "metal": _LIMITED_BY_MEMORY,
    "cuda": _LIMITED_BY_MEMORY,
    # Attention limits it, in reading as in writing. Of two layers, at 1,220 rows of 16 KB, a step takes 4.1,
    # 6.6 and 11.5 ms of one core for 1, 2 and 4 sequences, and a token of a prompt 1.1 ms.
    "cpu": _Pace(fixed=0, layer=5_000_000, reads=3),
}
#: Tokens of an agent's turn: what a tool gave back is read, and what is to be done next is generated.
_READ, _WRITTEN = 1000, 200


def gain(model: Model, rows: int, members: int) -> float:
    """Tokens/s of `members` sequences of so many rows together, against one: at the most.

    Padding makes each one's KV as long as the longest. A mixture of experts gains less, since more sequences
    want more experts.
    """
    pace = _PACES[model.traced.backend]
    one, shared = model.law.cold(rows), pace.fixed + pace.layer * model.traced.layers + model.weights
    writing = members * (shared + one) / (shared + members * one)
    reading = _READ / pace.reads
    return (reading + _WRITTEN) / (reading + _WRITTEN / writing)
