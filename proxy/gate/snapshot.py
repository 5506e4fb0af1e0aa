"""Pure. The gate's state at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.gate.budget import Budget
from supervisor.memory_model.sequence import SequenceDemand


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """For status, metrics and the memory guard. Bytes.

    Attributes:
        demands: of each running request, by id, in the order of their grants.
        slots_taken: by running requests, less those that the child is about to drop.
        disconnected: running requests whose client has disconnected while the child may still work on them.
        held: no request is admitted, because memory is short.
        reserved: predicted peak memory of all running requests.
        retained: what finished sequences hold now.
        generating_kv: lower bound on the KV of the requests that generate.
        eviction_needed: retained bytes that must be evicted before the first queued request fits; 0 if
            something else blocks it.
        corrections: factors on the cost model, for one request alone and for several.
    """

    demands: Mapping[str, SequenceDemand]
    slots_taken: int
    waiting: int
    disconnected: int
    budget: Budget
    held: bool
    reserved: int
    retained: int
    generating_kv: int
    eviction_needed: int
    corrections: tuple[float, float]

    @property
    def running(self) -> int:
        return len(self.demands)
