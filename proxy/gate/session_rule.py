"""Pure. The rule of sessions as the gate applies it: what the child keeps, and who may run because of it.

`Admission` tells it what happens; `decide` says which of the waiting may run. While everything that the child
keeps fits together with what waits, it has no opinion, and the gate decides as if it were not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket
from proxy.gate.reading_speed import ReadingSpeed
from proxy.gate.residents import CacheContent, KeptSequence, Residents, ReuseRecord, SessionRequest
from proxy.gate.session_turns import (
    TurnDecision,
    decide,
    expected_wait_s,
    is_small,
    least_wait_s,
    outsiders,
)
from proxy.gate.snapshot import SessionsSnapshot
from supervisor.memory_model.sequence import SequenceDemand

#: Of a session's next prompt, one part in this many is taken to be new, and as much to be generated.
_NEW_PART = 32
#: Lengths are rounded up to this many steps per octave, so that few of them are asked of the cost model.
_STEPS = 16


class BudgetMemory:
    """What sequences cost by a budget (`residents.Memory`). Answers are remembered, by rounded length."""

    def __init__(self, budget: Budget) -> None:
        self._costs = budget.costs
        self.room = max(0, round((budget.ceiling or 0) - self._costs.weights))
        self.cache_bytes = self._costs.cache_bytes
        self._kept: dict[int, int] = {}
        self._warm: dict[int, int] = {}
        self._cold: dict[int, int] = {}

    def kept(self, rows: int) -> int:
        rows = _rounded(rows)
        if rows not in self._kept:
            self._kept[rows] = self._costs.kv((SequenceDemand(rows - 1, 1),))
        return self._kept[rows]

    def warm(self, rows: int) -> int:
        rows = _rounded(rows)
        if rows not in self._warm:
            self._warm[rows] = self._peak(rows, rows - rows // _NEW_PART)
        return self._warm[rows]

    def cold(self, rows: int) -> int:
        rows = _rounded(rows)
        if rows not in self._cold:
            self._cold[rows] = self._peak(rows, 0)
        return self._cold[rows]

    def _peak(self, rows: int, cached: int) -> int:
        demand = SequenceDemand(rows - 1, 1, cached)
        return self._costs.peak((demand,), 0) - self._costs.weights


class SessionRule:
    """The state behind the decisions. Times are monotonic seconds.

    Args:
        bound_s: seconds that a request may wait at most.
    """

    def __init__(self, bound_s: float = 600.0) -> None:
        self._bound_s = bound_s
        self._budget: Budget | None = None
        self._memory: BudgetMemory | None = None
        self._sequences: tuple[KeptSequence, ...] = ()
        self._unconfirmed: dict[str, KeptSequence] = {}  # by request, newest last
        self._reuse = ReuseRecord()
        self._residents: Residents | None = None
        self._swapped = -math.inf
        self._swapping: tuple[str, int] | None = None  # the one let in from outside that is being read
        self._decided: TurnDecision | None = None
        self.speed = ReadingSpeed()

    @property
    def sequences(self) -> tuple[KeptSequence, ...]:
        """What the child keeps, the oldest first."""
        return self._sequences

    @property
    def may_object(self) -> bool:
        """Whether there is anything that a decision could depend on; else `decide` need not be asked."""
        return self._memory is not None and (bool(self._sequences) or self._decided is not None)

    @property
    def outside(self) -> tuple[str, ...]:
        """Ids of the waiting requests that would have cost residents their place at the last decision."""
        return self._decided.outside if self._decided else ()

    @property
    def due(self) -> str | None:
        """Id of the request from outside whose turn it was at the last decision."""
        return self._decided.due if self._decided else None

    @property
    def wake(self) -> float | None:
        """When the last decision changes if nothing happens before."""
        return None if self._decided is None or self._decided.wake == math.inf else self._decided.wake

    # What happens

    def set_budget(self, budget: Budget) -> None:
        if budget is not self._budget:
            self._budget = budget
            self._memory = BudgetMemory(budget) if budget.ceiling is not None else None
            self._residents = None

    def arrived(self, ticket: Ticket) -> None:
        if ticket.session:
            self._reuse.arrived(_request(ticket), self._sequences)
            self._residents = None

    def granted(self, ticket: Ticket, now: float) -> None:
        """It runs. If it came from outside, the next slice begins when its prompt has been read."""
        if ticket.id in self.outside:
            self._swapped = now + self.speed.seconds(ticket.demand.cached, ticket.demand.prompt)
            self._swapping = ticket.id, ticket.demand.prompt

    def read(self, id: str, now: float) -> None:
        """Its prompt has been read."""
        if self._swapping is not None and self._swapping[0] == id:
            self._swapped, self._swapping = now, None

    def ended(self, ticket: Ticket, generated: int, held: int, now: float) -> None:
        """The child is done with it and keeps what it read and generated, `held` bytes, as the newest."""
        self.read(ticket.id, now)
        if not ticket.session or not generated or self._memory is None:
            return
        rows = ticket.demand.prompt + generated
        sequence = KeptSequence(ticket.session, rows, max(held, self._memory.kept(rows)), now)
        self._unconfirmed[ticket.id] = sequence
        self._replace(self._sequences)

    def set_cache(
        self, contents: Iterable[CacheContent] | None, confirmed: Iterable[str], now: float
    ) -> None:
        """The child's prompt cache holds `contents`, the oldest first; None: that is not known.

        Args:
            confirmed: ids of ended requests whose sequences these include, unless they were dropped.
        """
        for id in confirmed:
            self._unconfirmed.pop(id, None)
        if contents is None or self._memory is None:
            self._unconfirmed.clear()
            self._replace(())
            return
        known = {(each.session, each.rows): each for each in self._sequences if each.session}
        ended = {each.session: each.ended for each in self._sequences}
        memory = self._memory
        self._replace(
            tuple(
                known[session, rows]._replace(kind=kind)
                if (session, rows) in known
                else KeptSequence(session, rows, memory.kept(rows), ended.get(session, now), kind)
                for session, rows, kind in contents
            )
        )

    # Decisions

    def decide(self, waiting: Sequence[Ticket], now: float) -> TurnDecision | None:
        """Which of `waiting`, in the order of their turns, may run; None: all of them, as ever."""
        self._decided = None
        memory = self._memory
        if memory is None or not self._sequences or any(ticket.alone for ticket in waiting):
            return None
        if self._residents is None:
            self._residents = Residents(self._sequences, memory, self._reuse.reused)
        requests = [_request(ticket) for ticket in waiting]
        outside = outsiders(requests, self._residents, memory)
        if not outside:
            return None
        self._decided = decide(
            requests,
            outside,
            self._residents,
            memory,
            self.speed,
            swapped=self._swapped,
            bound_s=self._bound_s,
            now=now,
        )
        return self._decided

    def is_small(self, ticket: Ticket) -> bool:
        """Whether it always passes."""
        return self._memory is not None and is_small(_request(ticket), self._memory)

    def expected_wait_s(self, id: str, waiting: Sequence[Ticket], now: float) -> float | None:
        """About how many seconds it still waits; None where it waits for its turn only."""
        outside = self._outside_of(waiting)
        return expected_wait_s(id, outside, self.speed, swapped=self._swapped, bound_s=self._bound_s, now=now)

    def least_wait_s(self, id: str, waiting: Sequence[Ticket]) -> float:
        """Seconds that it waits at least: the cold reads of those from outside that are ahead of it."""
        outside = self._outside_of(waiting)
        if all(request.id != id for request in outside):
            return 0.0
        return least_wait_s(id, outside, self.speed)

    def snapshot(self, first: Ticket | None) -> SessionsSnapshot:
        """What is known now; `first`: the request that memory is made for."""
        return SessionsSnapshot(
            kept=self._sequences,
            residents=len(self._residents.sessions) if self._residents else 0,
            outside=len(self.outside),
            speed=self.speed,
            first=(first.id, first.session) if first else None,
        )

    def _outside_of(self, waiting: Sequence[Ticket]) -> list[SessionRequest]:
        by_id = {ticket.id: ticket for ticket in waiting}
        return [_request(by_id[id]) for id in self.outside if id in by_id]

    def _replace(self, sequences: Iterable[KeptSequence]) -> None:
        """With what has ended since as the newest, in place of the same session's earlier sequence."""
        fresh = {each.session: each for each in self._unconfirmed.values()}
        kept = [each for each in sequences if each.session not in fresh]
        self._sequences = (*kept, *fresh.values())
        self._residents = None


def _request(ticket: Ticket) -> SessionRequest:
    demand = ticket.demand
    return SessionRequest(ticket.id, ticket.session, ticket.arrived, demand.prompt, demand.cached)


def _rounded(rows: int) -> int:
    step = max(256, 1 << max(0, rows.bit_length() - _STEPS.bit_length()))
    return -(-rows // step) * step
