"""What running several sequences together gains in tokens/s, by the bytes that a step reads. Pure.

Not measured: arithmetic, for machines whose memory's speed limits generation, as a Mac's does.
"""

from __future__ import annotations

from supervisor.peak import Model

#: What a step takes whatever it reads (calls, kernels, Python), as bytes: some 5 ms at 100 GB/s.
_FIXED = 500_000_000


def gain(model: Model, rows: int, members: int) -> float:
    """Tokens/s of `members` sequences of so many rows together, against one: at the most.

    A step of generation reads the weights once for all, and each one's KV, which padding makes as long as the
    longest. A mixture of experts gains less, since more sequences want more experts. Reading prompts gains
    nothing.
    """
    one, shared = model.law.cold(rows), _FIXED + model.weights
    return members * (shared + one) / (shared + members * one)
