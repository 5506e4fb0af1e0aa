"""Pure. The gate's state at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.gate.budget import Budget
from proxy.gate.reading_speed import ReadingSpeed
from proxy.gate.residents import KeptSequence
from supervisor.memory_model.sequence import SequenceDemand


@dataclass(frozen=True, slots=True)
class SessionsSnapshot:
    """What is kept for sessions, and which request memory is made for.

    Attributes:
        kept: what the child's prompt cache holds, the oldest first; empty if that is not known.
        residents: number of sessions whose kept sequences fit next to a running request.
        outside: number of waiting requests that would cost a resident its place.
        speed: the child's reading speed.
        first: id of the request that retained memory is evicted for, and its session.
    """

    kept: tuple[KeptSequence, ...]
    residents: int
    outside: int
    speed: ReadingSpeed
    first: tuple[str, str] | None


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
        sessions: what the rule of sessions knows.
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
    sessions: SessionsSnapshot

    @property
    def running(self) -> int:
        return len(self.demands)
