"""A law of memory in round numbers, for tests of who may run: 10 bytes of weights, a byte for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.gate.budget import Need


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch costs members times the longest.

    Attributes:
        snapshots: the prompt of the last that ran is held until the next joins.
    """

    factor: float = 1.0
    together: float = 1.0
    snapshots: bool = False

    @property
    def weights(self) -> int:
        return 10

    def kv(self, needs: Sequence[Need], /) -> int:
        return len(needs) * max((need.prompt + need.completion for need in needs), default=0)

    def peak(self, needs: Sequence[Need], retained: int, /) -> int:
        factor = self.factor if len(needs) == 1 else self.together
        return self.weights + round(factor * self.kv(needs)) + retained

    def left(self, needs: Sequence[Need], /) -> int:
        return self.kv(needs)

    def stale(self, last: Need, /) -> int:
        return last.prompt if self.snapshots else 0

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        return ceiling - self.weights - completion

    def corrected(self, alone: float, together: float, /) -> Padded:
        return replace(self, factor=alone, together=together)
