"""Pure. The planned cost model as the gate asks it: what requests cost together, corrected by experience."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from proxy.gate.budget import Budget
from supervisor.memory_model import batch
from supervisor.memory_model.plan import COMPLETION, LEAST_PROMPT, Plan, with_answer
from supervisor.memory_model.sequence import SequenceDemand, Serving

#: Predicted peaks that are remembered before all of them are dropped.
_MAX_PEAKS = 256


@dataclass(frozen=True, slots=True)
class PlannedCosts:
    """The batch cost model for a child that runs as planned; see proxy.gate.budget.Costs.

    `alone`, `together`: factors on the predicted bytes above the weights, for one request and for several.
    """

    serving: Serving
    alone: float = 1.0
    together: float = 1.0
    # Uncorrected peaks, shared by all models that `corrected` makes of this one.
    _totals: dict[tuple[tuple[SequenceDemand, ...], int], int] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def weights(self) -> int:
        return self.serving.model.weights

    @property
    def cache_bytes(self) -> float:
        limit = self.serving.prompt_cache_bytes
        return math.inf if limit is None else limit

    def kv(self, demands: Sequence[SequenceDemand], /) -> int:
        return batch.kv(self.serving, demands)

    def peak(self, demands: Sequence[SequenceDemand], retained: int, /) -> int:
        if not demands:
            return self.weights + retained
        predicted = self._total(tuple(demands), retained) - self.weights - retained
        factor = self.alone if len(demands) == 1 else self.together
        return self.weights + retained + round(factor * predicted)

    def _total(self, demands: tuple[SequenceDemand, ...], retained: int) -> int:
        # A decision asks for the same set up to five times: does it fit, now and ever, what does it add.
        asked = (demands, retained)
        if (known := self._totals.get(asked)) is None:
            if len(self._totals) >= _MAX_PEAKS:
                self._totals.clear()
            known = self._totals[asked] = batch.peak(self.serving, demands, retained).total
        return known

    def left(self, demands: Sequence[SequenceDemand], /) -> int:
        return batch.kv(self.serving, demands)

    def stale(self, last: SequenceDemand, /) -> int:
        return batch.stale(self.serving, last)

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        uncorrected = (ceiling - self.weights) / self.alone
        return batch.largest_prompt(self.serving, self.weights + round(uncorrected), completion)

    def corrected(self, alone: float, together: float, /) -> PlannedCosts:
        if (alone, together) == (self.alone, self.together):
            return self
        return replace(self, alone=alone, together=together)


def longest_alone(plan: Plan) -> int | None:
    """Longest prompt that fits alone with room for an answer, in tokens; None: the plan refuses none.

    Where hardly any prompt would fit, the prediction shows its own error rather than the machine's limit.
    """
    rows = plan.fits[1]
    return with_answer(rows) if rows >= LEAST_PROMPT + COMPLETION else None


def budget(plan: Plan) -> Budget:
    """The gate's budget by `plan`."""
    return Budget(
        max_running=plan.running,
        max_active_kv_bytes=plan.max_active_kv,
        ceiling=None if longest_alone(plan) is None else plan.headroom + plan.model.weights,
        costs=PlannedCosts(plan.serving),
    )
