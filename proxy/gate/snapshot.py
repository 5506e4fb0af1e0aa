"""The gate as it is at one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.gate.budget import Budget


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """For status and metrics. Bytes.

    Attributes:
        places_taken: by the running; who was left and is dropped soon needs none.
        leaving: those of the running whose client has gone, while the child may still be at work on them.
        held: nobody is let in, memory being short.
        reserved: what all may come to hold at the fullest moment, as foretold.
        retained: what finished sequences hold now.
        holding: KV that those who generate have at least now.
        lacking: what finished sequences hold too much of for the first that waits.
        corrections: by what the law's bytes are multiplied, for one alone and for several.
    """

    running: int
    places_taken: int
    waiting: int
    leaving: int
    budget: Budget
    held: bool
    reserved: int
    retained: int
    holding: int
    lacking: int
    corrections: tuple[float, float]
