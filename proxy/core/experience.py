"""What the gate has learned of the lengths of answers and of the law, and what it is learning from now."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.core.budget import Costs, Need
from proxy.core.learning import Corrections, Lengths, Peaks, Sample


class Experience:
    """One per gate.

    Attributes:
        lengths: how long the answers of each client are.
        corrections: how far the law was found to be off; may be set to what an earlier proxy found.
    """

    def __init__(self) -> None:
        self.lengths = Lengths()
        self.corrections = Corrections()
        self._peaks = Peaks()

    def granted(self, id: str, costs: Costs, needs: Sequence[Need], retained: int) -> None:
        """`id` runs too, so that `needs` run together: what the law says without corrections is noted."""
        costs = costs.corrected(1.0, 1.0)
        self._peaks.granted(id, costs.peak(needs, retained) - costs.weights, retained)

    def saw(self, held: int, highest: int | None, weights: int) -> dict[str, int]:
        """The child holds so many bytes, never more than `highest`; rises as `Peaks.saw` has them."""
        return self._peaks.saw(held - weights, None if highest is None else highest - weights)

    def broken_off(self, id: str) -> None:
        """What was seen of it says nothing."""
        self._peaks.ended(id)

    def ended(self, id: str, now: float) -> Sample | None:
        """Learn from one that runs no more; None if it says nothing."""
        sample = self._peaks.ended(id)
        if sample is not None:
            self.corrections = self.corrections.learned(sample, now)
        return sample
