"""A cost model in round numbers, for tests of admission: 10 bytes of weights, one byte for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from supervisor.memory_model.sequence import SequenceDemand


@dataclass(frozen=True, slots=True)
class PaddedCosts:
    """Every request of a batch costs as much as the longest.

    Attributes:
        factor, together: corrections for one request and for several.
        snapshots: the prompt of the request that ran last is held until the next one joins.
    """

    factor: float = 1.0
    together: float = 1.0
    snapshots: bool = False

    @property
    def weights(self) -> int:
        return 10

    cache_bytes = math.inf

    def kv(self, demands: Sequence[SequenceDemand], /) -> int:
        return len(demands) * max((demand.prompt + demand.completion for demand in demands), default=0)

    def peak(self, demands: Sequence[SequenceDemand], retained: int, /) -> int:
        factor = self.factor if len(demands) == 1 else self.together
        return self.weights + round(factor * self.kv(demands)) + retained

    def left(self, demands: Sequence[SequenceDemand], /) -> int:
        return self.kv(demands)

    def stale(self, last: SequenceDemand, /) -> int:
        return last.prompt if self.snapshots else 0

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        return ceiling - self.weights - completion

    def corrected(self, alone: float, together: float, /) -> PaddedCosts:
        return replace(self, factor=alone, together=together)
