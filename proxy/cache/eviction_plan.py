"""Pure. Which filler requests evict just enough of the child's prompt cache, and what goes with them.

The server drops the oldest entry for each one that is inserted above the cache's size: the oldest answer
while there are at least as many answers as prompts, else the oldest prompt. Fillers that leave answers are
enough as long as they drop anything but each other. Fillers that leave prompts would stay for good where
answers are dropped first, and halve the cache (0 hits of 32 on the real class where answers alone gave 32).
They are used only to reach prompts that answers do not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from proxy.gate.residents import KeptSequence

FillerKind = Literal["assistant", "user"]

#: In this order kinds are dropped, each while there are at least as many of it as of the next.
_ORDER = ("assistant", "user", "system")


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """Fillers to send, in order, and the sequences that are dropped for them, the first first."""

    fillers: tuple[FillerKind, ...] = ()
    dropped: tuple[KeptSequence, ...] = ()


def plan_eviction(kept: Sequence[KeptSequence], *, size: int, needed: int, filler_bytes: int) -> EvictionPlan:
    """The fewest fillers that free `needed` bytes; what frees most if that cannot be done.

    Args:
        kept: what the cache holds, the oldest first.
        size: the most sequences that the cache holds.
        filler_bytes: what each filler adds.
    """
    cache = _Cache(kept, size)
    fillers: list[FillerKind] = []
    dropped: list[KeptSequence] = []
    freed, useful = 0, EvictionPlan()
    while freed < needed and len(dropped) < len(kept):
        kind: FillerKind = "user" if cache.answers_drop_only_fillers() else "assistant"
        fillers.append(kind)
        freed -= filler_bytes
        if (gone := cache.insert(kind)) is not None:
            dropped.append(gone)
            freed += gone.bytes
            useful = EvictionPlan(tuple(fillers), tuple(dropped))
        if len(fillers) > 3 * size + len(kept):
            break
    return useful


class _Cache:
    """LRUPromptCache by kinds; a filler of this plan is None."""

    def __init__(self, kept: Sequence[KeptSequence], size: int) -> None:
        self._size = size
        self._queues: dict[str, list[KeptSequence | None]] = {kind: [] for kind in _ORDER}
        for sequence in kept:
            self._queues[sequence.kind].append(sequence)

    def answers_drop_only_fillers(self) -> bool:
        """Whether another answer would drop one of this plan's own, while sequences are left elsewhere."""
        answers, prompts = self._queues["assistant"], self._queues["user"]
        full = sum(map(len, self._queues.values())) >= self._size
        own = not answers or answers[0] is None
        return full and any(prompts) and own and len(answers) + 1 >= len(prompts)

    def insert(self, kind: FillerKind) -> KeptSequence | None:
        """Insert a filler; the sequence that is dropped for it, if it was none of this plan's own."""
        self._queues[kind].append(None)
        if sum(map(len, self._queues.values())) <= self._size:
            return None
        for first, second in pairwise(_ORDER):
            if self._queues[first] and len(self._queues[first]) >= len(self._queues[second]):
                return self._queues[first].pop(0)
        return self._queues[_ORDER[-1]].pop(0)
