"""Who runs now: arrivals, leavings and time in, grants and refusals out. A grant reserves in its call.

What is reserved is what the law says of all who run (room.py, budget.py): their fullest moment that is to
come. A reservation grows with what its request really generates, and ends with `Leave`, which is told when
the child is done with the request, however long ago its client left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.gate.budget import Budget, Need
from proxy.gate.capacity import Capacity, Running
from proxy.gate.events import (
    Arrive,
    Effect,
    EndIsolation,
    Event,
    FreeSlot,
    Grant,
    Grew,
    Hold,
    InternalRequest,
    Leave,
    Reason,
    Refuse,
    Requeue,
    SetBudget,
    SetKept,
    SetRetained,
    Wake,
)
from proxy.gate.queue import FairQueue, Ticket
from proxy.gate.session_rule import SessionRule

#: So many of those who wait are looked at in one decision. The first that fits may pass those before it,
LOOK = 8
#: unless one of them has been passed so often, or was first passed so long ago, that it is its turn now.
PASSES = 16
PASSED_S = 60.0
#: The rule of sessions looks at this many of those that wait, in the order of their turns.
_RULED = 64
#: What finished sequences hold is taken away from for the first, if only that is in its way; if nobody has
#: done so within this time it is let in all the same, as the server lets go of some when it needs to.
RECLAIM_S = 5.0


#: Events after which there is no more room than before. Named: a union would be made anew at each event.
_FREES_NOTHING = (Arrive, Grew, Wake)


class AdmissionPreview(StrEnum):
    """What would become of a request that came now."""

    NOW = "now"
    WAITS = "waits"
    NEVER = "never"


@dataclass(slots=True)
class _Overtaken:
    """How often one that waits has been passed by others, and since when."""

    since: float
    times: int = 0


class Admission:
    """The gate's state. Each ticket ends in one Refuse, or in a Leave after any number of grants."""

    def __init__(self, budget: Budget, *, max_waiting: int, sessions: SessionRule | None = None) -> None:
        self._room = Capacity(budget)
        self._sessions = sessions
        if sessions is not None:
            sessions.set_budget(budget)
        self._next_up: Ticket | None = None  # where the rule of sessions decides: the first that may run
        self._max_waiting = max_waiting
        self._queue = FairQueue()
        self._passed: dict[str, _Overtaken] = {}
        self._no_room: list[Need] = []  # for which there was none, and nothing was freed since
        self._cramped: float | None = None  # since when only what is retained is in the way of the first

    @property
    def running(self) -> tuple[Running, ...]:
        """In the order of their grants."""
        return self._room.running

    @property
    def places_taken(self) -> int:
        """Of those there are; who runs and will be dropped soon needs none."""
        return self._room.places_taken

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def reserved(self) -> int:
        """Bytes of the fullest moment that is to come, everything counted, as far as can be foretold."""
        return self._room.reserved

    @property
    def holding(self) -> int:
        """Bytes of KV that those who generate have at least now."""
        return self._room.holding

    @property
    def retained(self) -> int:
        """Bytes that finished sequences hold, as was last told."""
        return self._room.retained

    @property
    def held(self) -> bool:
        """Whether nobody is let in for now."""
        return self._room.held

    @property
    def solitary(self) -> bool:
        """Whether a suspect has the child for itself."""
        return self._room.solitary

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event and decide. Raises ValueError for an impossible one, changing nothing."""
        if isinstance(event, Grew) and not self._room.is_unread(event.id):
            self._apply(event, now)
            return []  # makes room for nobody
        self._apply(event, now)
        newcomer = event.ticket if isinstance(event, Arrive) else None
        # 1. Who waited too long goes, before it is granted what it could not use.
        effects = [*self._expired(now, sparing=newcomer)]
        # 2. Who could not run even alone goes: one who comes, or all who are near their turn by a new budget.
        effects += self._hopeless(event)
        # 3. Who can run, runs.
        effects += self._granted(now)
        # 4. Who has just come and found no place, and has no time or no room to wait, goes.
        if newcomer is not None:
            effects += self._turned_away(newcomer, now)
        return effects

    def next_deadline(self) -> float | None:
        """When `handle(Wake(), now)` has something to do, if nothing happens before."""
        patience = None if self._cramped is None else self._cramped + RECLAIM_S
        turn = None if self._sessions is None else self._sessions.wake
        return min(
            (at for at in (self._queue.next_deadline(), patience, turn) if at is not None), default=None
        )

    def position(self, id: str) -> int | None:
        """Place in the queue as it stands, from 1; None if it does not wait."""
        return self._queue.position(id)

    def expected_wait_s(self, id: str, now: float) -> float | None:
        """About how many seconds one that waits for a slice still waits; None for all others."""
        if self._sessions is None or id not in self._sessions.outside:
            return None
        return self._sessions.expected_wait_s(id, tuple(self._queue.first(_RULED)), now)

    def outlook(self, ticket: Ticket, now: float) -> AdmissionPreview:
        """What would become of `ticket` if it came now. Changes nothing."""
        if not self._room.budget.ever_fits(ticket.least):
            return AdmissionPreview.NEVER
        barred = any(self._bars(other, now) for other in self._queue.first(LOOK))
        runs = not barred and self._room.has_place(ticket) and self._room.fits(ticket)
        return AdmissionPreview.NOW if runs else AdmissionPreview.WAITS

    def lacking(self) -> int:
        """Bytes that finished sequences hold too many of for the first that waits; 0 if that is not it."""
        first = self._first()
        return 0 if first is None else self._room.lacking(first)

    def _apply(self, event: Event, now: float) -> None:
        room, sessions = self._room, self._sessions
        match event:
            case Arrive(ticket):
                if ticket.id in self._queue or ticket.id in room:
                    raise ValueError(f"{ticket.id} is here already")
                self._queue.enter(ticket)
                if sessions is not None:
                    sessions.arrived(ticket)
            case Requeue(id, alone):
                if (ticket_again := room.release(id)) is None:
                    raise ValueError(f"{id} is not running")
                self._queue.enter(replace(ticket_again, alone=alone), again=True)
            case Leave(id, measured):
                before = room.retained
                if measured:
                    room.leave_behind(id)
                if sessions is not None and (ending := room.get(id)) is not None:
                    held = room.retained - before if len(room) > 1 else 0
                    sessions.ended(ending.ticket, ending.generated, held, now)
                room.release(id)
                self._forget(id)
            case Grew(id, tokens):
                if room.is_unread(id):  # no longer: then it costs less
                    self._no_room.clear()
                    if sessions is not None:
                        sessions.read(id, now)
                room.grow(id, tokens)
            case FreeSlot(id):
                room.vacate(id)
            case EndIsolation(id):
                room.join(id)
            case _:
                self._take_note(event, now)
        if not isinstance(event, _FREES_NOTHING):
            self._no_room.clear()

    def _take_note(self, event: Event, now: float) -> None:
        """Of what is no one request's."""
        room = self._room
        match event:
            case SetBudget(budget):
                room.budget = budget
                if self._sessions is not None:
                    self._sessions.set_budget(budget)
            case SetKept(sequences, confirmed):
                if self._sessions is not None:
                    self._sessions.kept(sequences, confirmed, now)
            case SetRetained(size):
                room.retained = size
            case Hold(on):
                room.held = on
            case InternalRequest(begun):
                if begun and room.solitary:
                    raise ValueError("a suspect runs alone")
                room.errands += 1 if begun else -1

    def _forget(self, id: str) -> None:
        self._queue.forget(id)
        self._passed.pop(id, None)

    def _expired(self, now: float, sparing: Ticket | None) -> Iterator[Effect]:
        for id in self._queue.late(now):
            if sparing is None or id != sparing.id:
                self._forget(id)
                yield Refuse(id, Reason.DEADLINE)

    def _hopeless(self, event: Event) -> Iterator[Effect]:
        match event:
            case Arrive(ticket):
                candidates = [ticket]
            case SetBudget():
                candidates = [*self._queue.first(LOOK)]
            case _:
                return
        budget = self._room.budget
        for ticket in candidates:
            if not budget.ever_fits(ticket.least):
                self._forget(ticket.id)
                limit = budget.largest_prompt(ticket.least.completion)
                yield Refuse(ticket.id, Reason.NEVER_FITS, limit)

    def _granted(self, now: float) -> Iterator[Effect]:
        while (ticket := self._next(now)) is not None:
            self._forget(ticket.id)
            self._queue.took_turn(ticket)
            if self._sessions is not None:
                self._sessions.granted(ticket, now)
            yield Grant(ticket.id, self._room.take(ticket))
        self._cramped = self._cramped_since(now)

    def _next(self, now: float) -> Ticket | None:
        """Who is granted now, having passed those before it."""
        if self._sessions is not None and self._sessions.has_say:
            waiting = {ticket.id: ticket for ticket in self._queue.first(_RULED)}
            decided = self._sessions.decide(tuple(waiting.values()), now)
            if decided is not None:
                return self._next_by_session([waiting[id] for id in decided.order], decided.due, now)
        passed: list[str] = []
        for ticket in self._queue.first(LOOK):
            if self._may_run(ticket, now):
                for id in passed:
                    self._passed.setdefault(id, _Overtaken(now)).times += 1
                return ticket
            if self._bars(ticket, now):
                return None
            passed.append(ticket.id)
        return None

    def _next_by_session(self, order: Sequence[Ticket], due: str | None, now: float) -> Ticket | None:
        """Who is granted now where not all sessions fit: the first in order, or one that may pass it."""
        assert self._sessions is not None
        if due is not None and order and self._bars(order[-1], now):
            order = order[-1:]  # it has been passed often enough
        self._next_up = order[0] if order else None
        for place, ticket in enumerate(order[:LOOK] if due is None else order):
            if self._may_run(ticket, now):
                passed = [due] if due is not None and ticket.id != due else []
                passed += [other.id for other in order[:place] if other.id != due]
                for id in passed:
                    self._passed.setdefault(id, _Overtaken(now)).times += 1
                return ticket
            if self._bars(ticket, now):
                return None
            if self._next_up is not None and self._sessions.is_small(self._next_up):
                self._next_up = ticket  # memory is made for the first that is not small
        return None

    def _may_run(self, ticket: Ticket, now: float) -> bool:
        room = self._room
        if not room.has_place(ticket) or any(map(ticket.need.no_less_than, self._no_room)):
            return False
        if room.fits(ticket):
            return True
        if room:
            self._no_room.append(ticket.need)
            return False
        waited = self._cramped is not None and now - self._cramped >= RECLAIM_S
        return waited and room.would_fit(ticket)

    def _bars(self, ticket: Ticket, now: float) -> bool:
        """Whether nobody may pass `ticket`, which waits: a suspect, or one that has been passed enough."""
        passed = self._passed.get(ticket.id)
        enough = passed is not None and (passed.times >= PASSES or now - passed.since >= PASSED_S)
        return ticket.alone or enough

    def _cramped_since(self, now: float) -> float | None:
        first = None if self._room else self._first()
        if first is None or not self._room.has_place(first) or not self._room.would_fit(first):
            return None
        return now if self._cramped is None else self._cramped

    def _first(self) -> Ticket | None:
        """The one that memory is made for."""
        if self._sessions is not None and self._sessions.outside:
            return self._next_up
        return next(self._queue.first(1), None)

    def _turned_away(self, ticket: Ticket, now: float) -> Iterator[Effect]:
        if ticket.id in self._queue:
            if ticket.deadline <= now:
                self._forget(ticket.id)
                yield Refuse(ticket.id, Reason.DEADLINE)
            elif len(self._queue) > self._max_waiting:
                self._forget(ticket.id)
                yield Refuse(ticket.id, Reason.QUEUE_FULL)
            elif self._sessions is not None and self._sessions.outside:
                waiting = tuple(self._queue.first(_RULED))
                if self._sessions.least_wait_s(ticket.id, waiting) > ticket.deadline - now:
                    retry_s = self._sessions.expected_wait_s(ticket.id, waiting, now)
                    self._forget(ticket.id)
                    yield Refuse(ticket.id, Reason.TOO_LATE, retry_s=retry_s)
