"""Pure. Whether a prediction still holds after the child's prompt cache has received more entries.

A prediction must be asked for again before its request is sent if an insertion since may have made its prompt
an exact hit, or its search long. Lengths alone can rule out both: an exact hit is an entry as long as the
prompt, and the cost of a search is bounded by the length of the longest entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

#: The latest insertions are remembered, up to this number; after more of them it is quicker to ask again.
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class CachePrediction:
    """What the cache simulator says of a prompt of `tokens` tokens.

    Attributes:
        cached: how many of them come from the cache.
        cost: list items that the search copies (`SearchResult.cost`).
        exact_hit: an entry has just these tokens, or may have.
        same_length: some entry is as long as the prompt.
        longest: length of the longest entry.
        inserts: lengths of the entries that the prompt itself may insert while it is read.
    """

    tokens: int
    cached: int
    cost: int
    exact_hit: bool
    same_length: bool
    longest: int
    inserts: Sequence[int]

    @property
    def segments(self) -> int:
        """The most segments that the child may read the prompt in."""
        return max(1, len(self.inserts))


class Insertions:
    """Lengths of the entries that the cache has received, in order, where they are known."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._lengths: deque[int] = deque(maxlen=remembered)
        self.count = 0

    def add(self, lengths: Iterable[int] | None) -> None:
        """Note entries that were inserted, or may have been; None: entries of any length."""
        if lengths is None:
            self._lengths.clear()
            self.count += 1
            return
        for length in lengths:
            self._lengths.append(length)
            self.count += 1

    def since(self, count: int) -> list[int] | None:
        """The insertions after the first `count`; None if they are not known."""
        new = self.count - count
        if new > len(self._lengths):
            return None
        return list(self._lengths)[len(self._lengths) - new :]


def holds(
    prediction: CachePrediction, inserted: Collection[int] | None, *, sequences: int, max_cost: int
) -> bool:
    """Whether a prompt that was no exact hit is none now, and its search costs what it did or at most
    `max_cost`.

    `inserted`: lengths of the insertions since; None: not known. `sequences`: the size of the cache.
    """
    if inserted is None:
        return False
    if not inserted:
        return True
    longest = max(prediction.longest, *inserted)
    new_hit = prediction.same_length or prediction.tokens in inserted
    return not new_hit and most(sequences, longest) <= max_cost


def most(sequences: int, longest: int) -> int:
    """A bound on the cost of any search among `sequences` entries of `longest` tokens (`radix_tree.descend`).

    The path of each entry is followed once, step by step. A fork copies the way to it for each of its
    branches, and there are at most two branches for each entry.
    """
    return sequences * (longest * (longest + 1) // 2 + 2 * (longest + 1))
