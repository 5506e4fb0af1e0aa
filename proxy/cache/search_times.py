"""How long searches in the child's prompt cache take on this machine, and the silences that they explain."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A search of this many seconds is a stall: it is worth a request that ends it, and long enough to be
#: measured.
WORTH_S = 0.1
#: Seconds per unit of search cost before any was measured. A distance of 64,000 tokens costs 2e9: 3.5 s were
#: measured next to an H200, 2.4 s on two cores of a server.
_USUAL = 1.5e-9
#: The learned rate stays within this factor of the usual one, so that other delays cannot pass for it.
_RANGE = 8.0
#: One observation moves the rate by this share of the way, on a logarithmic scale.
_WEIGHT = 0.3
#: A predicted search may take this many times as long before the watch may take it for a wedge.
_DOUBT = 3.0


class SearchTimes:
    """Seconds per unit of search cost (`CachePrediction.cost`), learned from searches that were measured.

    `expect_silence`: told until when, on `clock`, the child may show no sign of life.
    """

    def __init__(
        self, expect_silence: Callable[[float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._expect_silence = expect_silence
        self._clock = clock
        self._rate = _USUAL
        self._silent_until = 0.0

    @property
    def max_cost(self) -> int:
        """A search that costs more is a stall."""
        return int(WORTH_S / self._rate)

    def seconds(self, cost: int) -> float:
        """How long a search of this cost takes, as far as is known."""
        return cost * self._rate

    def observed(self, cost: int, seconds: float) -> None:
        """Learn from a search for a request that had the child to itself."""
        if cost > 0 and seconds > 0:
            learned = self._rate * (seconds / cost / self._rate) ** _WEIGHT
            self._rate = min(max(learned, _USUAL / _RANGE), _USUAL * _RANGE)

    def expect(self, cost: int) -> None:
        """A search begins, after those that are under way: one thread of the child does them all."""
        seconds = self.seconds(cost)
        if seconds >= WORTH_S:
            self._silent_until = max(self._silent_until, self._clock()) + _DOUBT * seconds
            self._expect_silence(self._silent_until)

    def restart(self) -> None:
        """Another child serves, and searches for nothing yet."""
        self._silent_until = 0.0
