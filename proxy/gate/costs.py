"""The plan's law as the gate asks it: what requests cost together, corrected by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from proxy.gate.budget import Budget, Need
from supervisor.memory_model import batch
from supervisor.memory_model.plan import COMPLETION, LEAST_PROMPT, Plan, with_answer
from supervisor.memory_model.sequence import MOST_SEGMENTS, Member, Serving

#: Answers of the law that are remembered.
_MOST_PEAKS = 256


@dataclass(frozen=True, slots=True)
class PlannedCosts:
    """The law of batches for a child that runs as planned; see core.budget.Costs.

    Attributes:
        alone, together: what bytes beside the weights are multiplied by, for one and for several.
    """

    serving: Serving
    alone: float = 1.0
    together: float = 1.0
    # What the law says without corrections, which is the same for all that are made of this by `corrected`.
    _totals: dict[tuple[tuple[Need, ...], int], int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def weights(self) -> int:
        return self.serving.model.weights

    def kv(self, needs: Sequence[Need], /) -> int:
        return batch.kv(self.serving, _members(needs))

    def peak(self, needs: Sequence[Need], retained: int, /) -> int:
        if not needs:
            return self.weights + retained
        beside = self._total(tuple(needs), retained) - self.weights - retained
        factor = self.alone if len(needs) == 1 else self.together
        return self.weights + retained + round(factor * beside)

    def _total(self, needs: tuple[Need, ...], retained: int) -> int:
        # A decision asks for the same set up to five times: does it fit, now and ever, what does it add.
        asked = (needs, retained)
        if (known := self._totals.get(asked)) is None:
            if len(self._totals) >= _MOST_PEAKS:
                self._totals.clear()
            known = self._totals[asked] = batch.peak(self.serving, _members(needs), retained).total
        return known

    def left(self, needs: Sequence[Need], /) -> int:
        return batch.left(self.serving, _members(needs))

    def stale(self, last: Need, /) -> int:
        return batch.stale(self.serving, _member(last))

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        beside = (ceiling - self.weights) / self.alone
        return batch.largest_prompt(self.serving, self.weights + round(beside), completion)

    def corrected(self, alone: float, together: float, /) -> PlannedCosts:
        if (alone, together) == (self.alone, self.together):
            return self
        return replace(self, alone=alone, together=together)


def longest_alone(plan: Plan) -> int | None:
    """The longest prompt that fits alone, with room for an answer; None: nobody is kept out by the plan.

    Where hardly any prompt would fit, the law says more about itself than about the machine.
    """
    rows = plan.fits[1]
    return with_answer(rows) if rows >= LEAST_PROMPT + COMPLETION else None


def budget(plan: Plan) -> Budget:
    """What the gate shares out by `plan`."""
    return Budget(
        max_running=plan.running,
        max_active_kv_bytes=plan.max_active_kv,
        ceiling=None if longest_alone(plan) is None else plan.headroom + plan.model.weights,
        costs=PlannedCosts(plan.serving),
    )


def _members(needs: Sequence[Need]) -> list[Member]:
    return [_member(need) for need in needs]


@lru_cache(maxsize=8192)
def _member(need: Need) -> Member:
    segments = need.segments or MOST_SEGMENTS
    return Member(need.prompt, need.completion, need.cached, need.among, need.longest, segments)
