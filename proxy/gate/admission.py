"""Pure. Admission: which queued request runs next, and which one is refused.

Each method that takes in a fact returns the grants and refusals that follow from it. A grant reserves in the
same call: what is reserved is the predicted peak of all running requests (capacity.py, budget.py). A
reservation grows with what its request really generates. It ends with `leave`, which is called when the child
is done with the request, however long ago its client disconnected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.gate.budget import Budget
from proxy.gate.capacity import Capacity
from proxy.gate.queue import FairQueue, Ticket
from proxy.gate.residents import CacheContent
from proxy.gate.session_rule import SessionRule
from proxy.gate.snapshot import GateSnapshot
from supervisor.memory_model.sequence import SequenceDemand

#: Queued requests considered in one decision: the first that fits may overtake those before it.
LOOK_AHEAD = 8
#: A request that has been overtaken this many times cannot be overtaken again, so that it does not starve.
MAX_OVERTAKES = 16
#: A request that was first overtaken this many seconds ago cannot be overtaken again either.
OVERTAKE_AGE_S = 60.0
#: Seconds that the first request waits at an idle child for retained memory to be taken back. After that it
#: is admitted all the same: the server evicts cache entries itself when it needs to.
RECLAIM_WAIT_S = 5.0
#: Queued requests that the rule of sessions considers in one decision.
_RULED = 64


class Reason(StrEnum):
    """Why a request is refused."""

    QUEUE_FULL = "queue_full"
    DEADLINE = "queue_deadline"
    NEVER_FITS = "never_fits"
    TURN_TOO_LATE = "turn_too_late"


@dataclass(frozen=True, slots=True)
class Grant:
    """Request `id` may run; the predicted peak of all running requests rose by `reserved` bytes."""

    id: str
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Refuse:
    """Request `id` is refused.

    Attributes:
        limit: with NEVER_FITS, the longest prompt that fits, in tokens.
        retry_s: with TURN_TOO_LATE, the seconds after which its turn would have come.
    """

    id: str
    reason: Reason
    limit: int | None = None
    retry_s: float | None = None


Effect = Grant | Refuse


class AdmissionPreview(StrEnum):
    """What would happen to a request that arrived now."""

    NOW = "now"
    QUEUED = "queued"
    NEVER_FITS = "never_fits"


@dataclass(slots=True)
class _Overtaken:
    """How often a queued request has been overtaken, and since when."""

    since: float
    times: int = 0


class Admission:
    """The gate's state. Each ticket ends in one Refuse, or in `leave` after any number of grants.

    Times are monotonic seconds.

    Attributes:
        capacity: the running requests and what is reserved for them; to be read only.
        queue: the waiting requests; to be read only.
        sessions: the rule that decides where not all sessions fit.
    """

    def __init__(self, budget: Budget, *, max_waiting: int, sessions: SessionRule | None = None) -> None:
        self.capacity = Capacity(budget)
        self.queue = FairQueue()
        self.sessions = sessions or SessionRule()
        self.sessions.set_budget(budget)
        self._max_waiting = max_waiting
        self._overtaken: dict[str, _Overtaken] = {}
        self._unfitting: list[SequenceDemand] = []  # demands that did not fit since anything was last freed
        self._next_up: Ticket | None = None  # the first that the rule of sessions lets run, if it decides
        self._reclaim_since: float | None = None  # since when only retained memory blocks the first request

    # One request's steps

    def arrive(self, ticket: Ticket, now: float) -> list[Effect]:
        """Queue a new request. Raises ValueError if its id is known, and changes nothing then."""
        if ticket.id in self.queue or ticket.id in self.capacity:
            raise ValueError(f"{ticket.id} is here already")
        self.queue.enter(ticket)
        self.sessions.arrived(ticket)
        return self._decide(now, newcomer=ticket)

    def requeue(self, id: str, now: float, *, alone: bool = False) -> list[Effect]:
        """Put a running request back into the queue by its old arrival; no other slips in between.

        Raises ValueError if it is not running, and changes nothing then.
        """
        if (ticket := self.capacity.release(id)) is None:
            raise ValueError(f"{id} is not running")
        self.queue.enter(replace(ticket, alone=alone), replay=True)
        return self._freed(now)

    def grew(self, id: str, tokens: int, now: float) -> list[Effect]:
        """A running request has generated `tokens` so far; its first ones may make room for another."""
        was_unread = self.capacity.is_unread(id)
        self.capacity.grow(id, tokens)
        if was_unread:
            self.sessions.read(id, now)
        return self._freed(now) if was_unread else []

    def end_isolation(self, id: str, now: float) -> list[Effect]:
        """A request that runs alone is no longer a suspect: others may join it."""
        self.capacity.end_isolation(id)
        return self._freed(now)

    def free_slot(self, id: str, now: float) -> list[Effect]:
        """The child drops a disconnected request after its next step: another may have its slot.

        Its memory stays reserved until `leave`.
        """
        self.capacity.free_slot(id)
        return self._freed(now)

    def leave(self, id: str, now: float, *, measured: bool = False) -> list[Effect]:
        """A request does not wait any more, and the child is done with it.

        `measured`: `set_retained` will be called. Until then what this request leaves behind is estimated.
        """
        capacity = self.capacity
        if (running := capacity.get(id)) is not None:
            held = capacity.budget.costs.left([each.demand for each in capacity.running])
            self.sessions.ended(running.ticket, running.generated, held, now)
        if measured:
            capacity.leave_behind(id)
        capacity.release(id)
        self._dequeue(id)
        return self._freed(now)

    # Facts about the gate as a whole

    def set_budget(self, budget: Budget, now: float) -> list[Effect]:
        """Use another budget, and refuse the first in the queue if they can never fit into it."""
        self.capacity.budget = budget
        self.sessions.set_budget(budget)
        return self._freed(now, recheck=True)

    def set_retained(self, size: int, now: float) -> list[Effect]:
        """Finished sequences hold `size` bytes now."""
        self.capacity.retained = size
        return self._freed(now)

    def set_cache(
        self, kept: Iterable[CacheContent] | None, confirmed: Iterable[str], now: float
    ) -> list[Effect]:
        """The child's prompt cache holds these sequences; see `SessionRule.set_cache`."""
        self.sessions.set_cache(kept, confirmed, now)
        return self._decide(now)

    def hold(self, on: bool, now: float) -> list[Effect]:
        """Grant nothing while `on`: memory is short, whatever was predicted."""
        self.capacity.held = on
        return self._freed(now)

    def begin_internal_request(self) -> bool:
        """Count an internal request at the child; False, counting nothing, while a request is isolated."""
        if self.capacity.isolated:
            return False
        self.capacity.internal_requests += 1
        return True

    def end_internal_request(self, now: float) -> list[Effect]:
        """One internal request has ended."""
        self.capacity.end_internal_request()
        return self._freed(now)

    def wake(self, now: float) -> list[Effect]:
        """Only time has passed."""
        return self._decide(now)

    # Questions

    def next_deadline(self) -> float | None:
        """When `wake` has something to do, if nothing else happens before."""
        reclaim = None if self._reclaim_since is None else self._reclaim_since + RECLAIM_WAIT_S
        times = (self.queue.next_deadline(), reclaim, self.sessions.wake)
        return min((at for at in times if at is not None), default=None)

    def expected_wait_s(self, id: str, now: float) -> float | None:
        """About how many seconds a request that waits for its slice still waits; None for all others."""
        if id not in self.sessions.outside:
            return None
        return self.sessions.expected_wait_s(id, tuple(self.queue.first(_RULED)), now)

    def preview(self, ticket: Ticket, now: float) -> AdmissionPreview:
        """What would happen to `ticket` if it arrived now. Changes nothing."""
        if not self.capacity.budget.ever_fits(ticket.least_demand):
            return AdmissionPreview.NEVER_FITS
        blocked = any(self._keeps_its_turn(other, now) for other in self.queue.first(LOOK_AHEAD))
        runs = not blocked and self.capacity.has_slot(ticket) and self.capacity.fits(ticket)
        return AdmissionPreview.NOW if runs else AdmissionPreview.QUEUED

    def snapshot(self, *, disconnected: int, corrections: tuple[float, float]) -> GateSnapshot:
        """The gate's state now; its shell knows the number of disconnected requests and the corrections."""
        capacity, first = self.capacity, self._first()
        return GateSnapshot(
            demands={each.ticket.id: each.demand for each in capacity.running},
            slots_taken=capacity.slots_taken,
            waiting=len(self.queue),
            disconnected=disconnected,
            budget=capacity.budget,
            held=capacity.held,
            reserved=capacity.reserved,
            retained=capacity.retained,
            generating_kv=capacity.generating_kv,
            eviction_needed=0 if first is None else capacity.eviction_needed(first),
            corrections=corrections,
            sessions=self.sessions.snapshot(first),
        )

    # Decisions

    def _freed(self, now: float, *, recheck: bool = False) -> list[Effect]:
        """Decide after something that may have made room."""
        self._unfitting.clear()
        return self._decide(now, recheck=recheck)

    def _decide(self, now: float, *, newcomer: Ticket | None = None, recheck: bool = False) -> list[Effect]:
        # 1. Refuse requests that waited too long, before they are granted what they could not use.
        effects = [*self._refuse_expired(now, sparing=newcomer)]
        # 2. Refuse requests that could not run even alone: the newcomer, or, by a new budget, the next ones.
        if newcomer is not None:
            effects += self._refuse_impossible((newcomer,))
        elif recheck:
            effects += self._refuse_impossible([*self.queue.first(LOOK_AHEAD)])
        # 3. Grant what can run.
        effects += self._grant(now)
        # 4. Refuse a newcomer that was not granted and that has no time or no room to wait.
        if newcomer is not None and newcomer.id in self.queue:
            if newcomer.deadline <= now:
                effects.append(self._refuse(newcomer, Reason.DEADLINE))
            elif len(self.queue) > self._max_waiting:
                effects.append(self._refuse(newcomer, Reason.QUEUE_FULL))
            elif self.sessions.outside:
                effects += self._refuse_too_late(newcomer, now)
        return effects

    def _refuse(self, ticket: Ticket, reason: Reason, limit: int | None = None) -> Refuse:
        self._dequeue(ticket.id)
        return Refuse(ticket.id, reason, limit)

    def _dequeue(self, id: str) -> None:
        self.queue.remove(id)
        self._overtaken.pop(id, None)

    def _refuse_expired(self, now: float, sparing: Ticket | None) -> Iterator[Effect]:
        for ticket in self.queue.expired(now):
            if ticket is not sparing:
                yield self._refuse(ticket, Reason.DEADLINE)

    def _refuse_impossible(self, tickets: Iterable[Ticket]) -> Iterator[Effect]:
        budget = self.capacity.budget
        for ticket in tickets:
            if not budget.ever_fits(ticket.least_demand):
                limit = budget.largest_prompt(ticket.least_demand.completion)
                yield self._refuse(ticket, Reason.NEVER_FITS, limit)

    def _refuse_too_late(self, newcomer: Ticket, now: float) -> Iterator[Effect]:
        """Refuse a newcomer whose turn cannot come before its deadline, whatever the others do."""
        waiting = tuple(self.queue.first(_RULED))
        if self.sessions.least_wait_s(newcomer.id, waiting) > newcomer.deadline - now:
            retry_s = self.sessions.expected_wait_s(newcomer.id, waiting, now)
            yield replace(self._refuse(newcomer, Reason.TURN_TOO_LATE), retry_s=retry_s)

    def _grant(self, now: float) -> Iterator[Effect]:
        while (ticket := self._next(now)) is not None:
            self._dequeue(ticket.id)
            self.queue.took_turn(ticket)
            self.sessions.granted(ticket, now)
            yield Grant(ticket.id, self.capacity.admit(ticket))
        self._reclaim_since = self._waiting_for_reclaim_since(now)

    def _next(self, now: float) -> Ticket | None:
        """The request that is granted now, having overtaken those before it."""
        if self.sessions.may_object:
            waiting = {ticket.id: ticket for ticket in self.queue.first(_RULED)}
            decision = self.sessions.decide(tuple(waiting.values()), now)
            if decision is not None:
                return self._next_by_session([waiting[id] for id in decision.order], decision.due, now)
        return self._first_that_may_run(self.queue.first(LOOK_AHEAD), now)

    def _first_that_may_run(self, order: Iterable[Ticket], now: float) -> Ticket | None:
        overtaken: list[str] = []
        for ticket in order:
            if self._may_run(ticket, now):
                for id in overtaken:
                    self._overtaken.setdefault(id, _Overtaken(now)).times += 1
                return ticket
            if self._keeps_its_turn(ticket, now):
                return None
            overtaken.append(ticket.id)
        return None

    def _next_by_session(self, order: Sequence[Ticket], due: str | None, now: float) -> Ticket | None:
        """The request that is granted now where not all sessions fit.

        Memory is made for the first in order that is not small: small requests find room by themselves.
        """
        if due is not None and self._keeps_its_turn(order[-1], now):
            order = order[-1:]
        self._next_up = next((each for each in order if not self.sessions.is_small(each)), None)
        if self._next_up is None and order:
            self._next_up = order[0]
        granted = self._first_that_may_run(order if due is not None else order[:LOOK_AHEAD], now)
        if granted is not None and due not in (None, granted.id):
            self._overtaken.setdefault(due, _Overtaken(now)).times += 1
        return granted

    def _may_run(self, ticket: Ticket, now: float) -> bool:
        capacity = self.capacity
        if not capacity.has_slot(ticket) or any(map(ticket.demand.no_less_than, self._unfitting)):
            return False
        if capacity.fits(ticket):
            return True
        if capacity:
            self._unfitting.append(ticket.demand)
            return False
        waited = self._reclaim_since is not None and now - self._reclaim_since >= RECLAIM_WAIT_S
        return waited and capacity.would_fit(ticket)

    def _keeps_its_turn(self, ticket: Ticket, now: float) -> bool:
        """Whether no request may overtake `ticket`: it is a suspect, or has been overtaken enough."""
        overtaken = self._overtaken.get(ticket.id)
        enough = overtaken is not None and (
            overtaken.times >= MAX_OVERTAKES or now - overtaken.since >= OVERTAKE_AGE_S
        )
        return ticket.alone or enough

    def _waiting_for_reclaim_since(self, now: float) -> float | None:
        first = None if self.capacity else self._first()
        if first is None or not self.capacity.has_slot(first) or not self.capacity.would_fit(first):
            return None
        return now if self._reclaim_since is None else self._reclaim_since

    def _first(self) -> Ticket | None:
        """The request that retained memory is evicted for."""
        if self.sessions.outside:
            return self._next_up
        return next(self.queue.first(1), None)
