"""How long a search in the child's prompt cache takes on this machine: learned, within bounds. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Seconds from which on a search is a stall that is worth a request to end it, and one that can be measured.
WORTH_S = 0.1
#: Seconds per copied item of a list. 64,000 tokens of distance are 2e9 items: 3.5 s were measured beside an
#: H200, 2.4 s on two cores of a server.
_USUAL = 1.5e-9
#: A machine is at most so many times slower or faster; what else took time must not pass for it.
_RANGE = 8.0
#: Share of the way that one observation moves it, as factors.
_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class SearchRate:
    """`per_item`: seconds per copied item."""

    per_item: float = _USUAL

    def seconds(self, copied: int) -> float:
        return copied * self.per_item

    def items(self, seconds: float) -> int:
        """Items that are copied in so long."""
        return int(seconds / self.per_item)

    def observed(self, copied: int, seconds: float) -> SearchRate:
        """A search of `copied` items, for a request that had the child for itself, took so long."""
        if copied <= 0 or seconds <= 0:
            return self
        factor = (seconds / copied / self.per_item) ** _WEIGHT
        return replace(self, per_item=min(max(self.per_item * factor, _USUAL / _RANGE), _USUAL * _RANGE))
