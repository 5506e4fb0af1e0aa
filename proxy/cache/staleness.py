"""Whether what was foreseen of a request holds, after more has come into the child's prompt cache. Pure.

What was foreseen of one must be asked again before it is sent, if what has come since may have made its
prompt a key of the cache, or its search long. Neither needs token ids to be ruled out: a key is as long as
the prompt, and a search is bounded by how long the longest entry is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

#: Latest entries that are remembered; for a request that has waited longer it is quicker to ask.
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class CachePrediction:
    """What the mirror says of a prompt of `tokens` tokens.

    Attributes:
        cached: how many of them would come from the cache.
        copied: items that the search copies (`core.mirror.SearchResult`).
        key: whether it is an entry as a whole, or may be.
        twin: whether any entry is as long as it is.
        longest: tokens of the longest entry that there is.
        leaves: lengths of the entries that it may leave itself, while it is read.
    """

    tokens: int
    cached: int
    copied: int
    key: bool
    twin: bool
    longest: int
    leaves: Sequence[int]


class Insertions:
    """Lengths of the entries that have come, as far as they are known, in order."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._lengths: deque[int] = deque(maxlen=remembered)
        self.count = 0

    def came(self, lengths: Iterable[int]) -> None:
        """Of what has come or may have."""
        for length in lengths:
            self._lengths.append(length)
            self.count += 1

    def unknown(self) -> None:
        """Anything may have come."""
        self._lengths.clear()
        self.count += 1

    def since(self, count: int) -> list[int] | None:
        """What came after so many; None where that is not known."""
        new = self.count - count
        if new > len(self._lengths):
            return None
        return list(self._lengths)[len(self._lengths) - new :]


def holds(told: CachePrediction, came: Collection[int] | None, *, sequences: int, most_copied: int) -> bool:
    """Whether a prompt that was no key is none now, and its search what it was, or of at most `most_copied`.

    `came`: lengths of what has come since, None: not known. `sequences`: the most that the cache has.
    """
    if came is None:
        return False
    if not came:
        return True
    longest = max(told.longest, *came)
    return not told.twin and told.tokens not in came and most(sequences, longest) <= most_copied


def most(sequences: int, longest: int) -> int:
    """A bound on what a search copies among so many entries of at most so many tokens (core.paths.descend).

    Each entry's path is followed once, step by step; a fork copies the way to it for each of its branches,
    of which there are at most two for each entry.
    """
    return sequences * (longest * (longest + 1) // 2 + 2 * (longest + 1))
