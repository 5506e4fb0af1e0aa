"""Pure. The gate's limits, and the cost model that says what requests that run together need of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.memory_model.sequence import SequenceDemand


class Costs(Protocol):
    """Cost model of memory, called several times per decision. Costs rise with every request and token."""

    @property
    def weights(self) -> int:
        """Bytes of the model, in use even when nothing runs."""

    @property
    def cache_bytes(self) -> float:
        """Limit on the bytes that the server's prompt cache counts; infinite if it has none."""

    def kv(self, demands: Sequence[SequenceDemand], /) -> int:
        """Bytes of KV when all have generated what they are expected to."""

    def peak(self, demands: Sequence[SequenceDemand], retained: int, /) -> int:
        """Peak bytes until all have ended. `retained`: what finished sequences hold now."""

    def left(self, demands: Sequence[SequenceDemand], /) -> int:
        """Bytes that the first of these to end leaves behind."""

    def stale(self, last: SequenceDemand, /) -> int:
        """Retained bytes that are freed when the next request joins; `last` ran last."""

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        """Longest prompt, in tokens, that fits alone under `ceiling` bytes with nothing retained."""

    def corrected(self, alone: float, together: float, /) -> Costs:
        """The same model with a factor on the bytes above the weights: for one request, and for several."""


class _FreeCosts:
    """Every request is free of cost."""

    weights = 0
    cache_bytes = math.inf

    def _nothing(self, *_: object) -> int:
        return 0

    kv = peak = left = stale = largest_prompt = _nothing

    def corrected(self, alone: float, together: float, /) -> Costs:
        del alone, together
        return self


#: The cost model in use before there is a plan.
FREE: Costs = _FreeCosts()


@dataclass(frozen=True, slots=True)
class Budget:
    """What running requests share. Bytes; None is no limit.

    Attributes:
        max_running: number of slots.
        max_active_kv_bytes: limit on the KV of all requests; one that runs alone is not held to it.
        ceiling: limit on the predicted peak of everything.
        recent_ceiling: the highest ceiling of the last minutes. A request that fits alone under it waits for
            memory to come back; one that does not is refused.
        costs: the cost model.
    """

    max_running: int
    max_active_kv_bytes: int | None = None
    ceiling: int | None = None
    recent_ceiling: int | None = None
    costs: Costs = FREE

    def has_room(self, running: Sequence[SequenceDemand], newcomer: SequenceDemand, retained: int) -> bool:
        """Whether `newcomer` fits together with `running`, slots aside."""
        together, kv_limit = (*running, newcomer), self.max_active_kv_bytes
        if running and kv_limit is not None and self.costs.kv(together) > kv_limit:
            return False
        return self.ceiling is None or self.costs.peak(together, retained) <= self.ceiling

    def ever_fits(self, demand: SequenceDemand) -> bool:
        """Whether it fits alone, with nothing retained, under the highest recent ceiling."""
        limit = self.ceiling if self.recent_ceiling is None else self.recent_ceiling
        return self.ceiling is None or limit is None or self.costs.peak((demand,), 0) <= limit

    def largest_prompt(self, completion: int) -> int:
        """Longest prompt, in tokens, for which `ever_fits` holds."""
        limit = self.ceiling if self.recent_ceiling is None else self.recent_ceiling
        return self.costs.largest_prompt(limit or 0, completion)
