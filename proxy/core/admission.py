"""Who runs now: arrivals, leavings and time in, grants and refusals out. A grant reserves in its call."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request at the gate. Times are monotonic seconds.

    Attributes:
        client: whose turn it takes (key name).
        arrived: kept over replays, so that a replay stands before all who came after it.
        deadline: it waits until then at most.
        rows: cached token positions that it will hold at most, rounded up to 256.
        alone: a suspect: it runs only when nothing else runs, and nobody joins it.
    """

    id: str
    client: str
    arrived: float
    deadline: float
    rows: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """What the running may hold together.

    The child pads a batch: its members hold members x longest rows (generate.py, BatchKVCache). One that
    runs alone is always let in; what can never fit is refused before the gate.
    """

    max_running: int
    max_active_kv_bytes: int | None = None
    bytes_per_row: int = 0

    def admits(self, ticket: Ticket, running: int, longest_rows: int) -> bool:
        """Whether `ticket` may join `running` others, the longest of which has `longest_rows`."""
        if running >= self.max_running:
            return False
        if self.max_active_kv_bytes is None or running == 0:
            return True
        padded = (running + 1) * max(ticket.rows, longest_rows)
        return padded * self.bytes_per_row <= self.max_active_kv_bytes


class Reason(StrEnum):
    QUEUE_FULL = "queue_full"
    DEADLINE = "queue_deadline"


@dataclass(frozen=True, slots=True)
class Arrive:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Leave:
    """Finished, disconnected or cancelled: it is neither waiting nor running any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """A running one goes back to its place in the queue, in one step: nobody slips in between."""

    id: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Join:
    """One that runs alone is a suspect no longer: others may run beside it."""

    id: str


@dataclass(frozen=True, slots=True)
class SetBudget:
    budget: Budget


@dataclass(frozen=True, slots=True)
class Errand:
    """A request of the proxy's own (proxy/synthetic.py) has begun at the child, or has ended."""

    begun: bool


@dataclass(frozen=True, slots=True)
class Wake:
    """Only time has passed."""


Event = Arrive | Leave | Requeue | Join | SetBudget | Errand | Wake


@dataclass(frozen=True, slots=True)
class Grant:
    id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    id: str
    reason: Reason


Effect = Grant | Refuse

_Entry = tuple[float, int, str]  # arrival, order of entry, id


class Admission:
    """The gate's state. Each ticket ends in one Refuse, or in a Leave after any number of grants.

    Queues are sorted lists: inserting and removing moves memory, which for 10,000 waiting takes
    microseconds, and nothing stale is ever in them.
    """

    def __init__(self, budget: Budget, *, max_waiting: int, fairness: Literal["key", "none"]) -> None:
        self._budget = budget
        self._max_waiting = max_waiting
        self._fair = fairness == "key"
        self._running: dict[str, Ticket] = {}
        self._waiting: dict[str, tuple[_Entry, Ticket]] = {}
        self._again: list[_Entry] = []  # those who ran before
        self._suspects: list[_Entry] = []  # those who must run alone
        self._lines: dict[str, list[_Entry]] = {}  # the others, by client; none is empty
        self._deadlines: list[tuple[float, str]] = []
        self._turns: dict[str, int] = {}  # client -> number of its last grant
        self._errands = 0
        self._entries = 0
        self._grants = 0
        self._positions: dict[str, int] | None = None

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def solitary(self) -> bool:
        """Whether a suspect has the child for itself."""
        return any(ticket.alone for ticket in self._running.values())

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event and decide. Raises ValueError for an impossible one, changing nothing."""
        self._apply(event)
        self._positions = None
        newcomer = event.ticket if isinstance(event, Arrive) else None
        # 1. Who waited too long goes, before it is granted what it could not use.
        effects = [*self._expired(now, sparing=newcomer)]
        # 2. Who can run, runs.
        effects += self._granted()
        # 3. Who has just come and found no place, and has no time or no room to wait, goes.
        if newcomer is not None:
            effects += self._turned_away(newcomer, now)
        return effects

    def next_deadline(self) -> float | None:
        """When `handle(Wake(), now)` has something to do, if nothing happens before."""
        return self._deadlines[0][0] if self._deadlines else None

    def position(self, id: str) -> int | None:
        """Place in the queue as it stands, from 1; None if it does not wait."""
        if self._positions is None:
            self._positions = {each: place for place, each in enumerate(self._order(), 1)}
        return self._positions.get(id)

    def _apply(self, event: Event) -> None:
        match event:
            case Arrive(ticket):
                if ticket.id in self._waiting or ticket.id in self._running:
                    raise ValueError(f"{ticket.id} is here already")
                self._enter(ticket, None if ticket.alone else self._line(ticket))
            case Requeue(id, alone):
                if id not in self._running:
                    raise ValueError(f"{id} is not running")
                ticket = replace(self._running.pop(id), alone=alone)
                self._enter(ticket, None if alone else self._again)
            case Join(id):
                if id in self._running:
                    self._running[id] = replace(self._running[id], alone=False)
            case Leave(id):
                self._running.pop(id, None)
                self._forget(id)
            case SetBudget(budget):
                self._budget = budget
            case Errand(begun):
                if begun and self.solitary:
                    raise ValueError("a suspect runs alone")
                self._errands += 1 if begun else -1
            case Wake():
                pass

    def _whose(self, ticket: Ticket) -> str:
        return ticket.client if self._fair else ""

    def _line(self, ticket: Ticket) -> list[_Entry]:
        return self._lines.setdefault(self._whose(ticket), [])

    def _enter(self, ticket: Ticket, line: list[_Entry] | None) -> None:
        """`line`: where it stands, None among the suspects."""
        self._entries += 1
        entry = (ticket.arrived, self._entries, ticket.id)
        insort(self._suspects if line is None else line, entry)
        insort(self._deadlines, (ticket.deadline, ticket.id))
        self._waiting[ticket.id] = (entry, ticket)

    def _forget(self, id: str) -> bool:
        """Take it out of the queue; False if it was not in it."""
        if id not in self._waiting:
            return False
        entry, ticket = self._waiting.pop(id)
        _discard(self._deadlines, (ticket.deadline, id))
        if not _discard(self._again, entry) and not _discard(self._suspects, entry):
            whose = self._whose(ticket)
            _discard(self._lines[whose], entry)
            if not self._lines[whose]:
                del self._lines[whose]
        return True

    def _expired(self, now: float, sparing: Ticket | None) -> Iterator[Effect]:
        late = [id for _, id in takewhile(lambda entry: entry[0] <= now, self._deadlines)]
        for id in late:
            if sparing is None or id != sparing.id:
                self._forget(id)
                yield Refuse(id, Reason.DEADLINE)

    def _granted(self) -> Iterator[Effect]:
        while (ticket := self._next()) and self._may_run(ticket):
            self._forget(ticket.id)
            self._running[ticket.id] = ticket
            self._grants += 1
            self._turns[self._whose(ticket)] = self._grants
            yield Grant(ticket.id)

    def _may_run(self, ticket: Ticket) -> bool:
        running = self._running.values()
        if self.solitary or (ticket.alone and (running or self._errands)):
            return False
        longest = max((other.rows for other in running), default=0)
        return self._budget.admits(ticket, len(running), longest)

    def _next(self) -> Ticket | None:
        if not self._waiting:
            return None
        # 1. Who ran before, by arrival.
        # 2. A suspect, if it came before the one below: it is last among those of its crash, yet nobody who
        #    comes later can keep it waiting for ever.
        # 3. The client whose last grant is longest ago; among new ones, who came first.
        first = self._again[:1] or self._fair_turn()
        if not self._again and self._suspects and (not first or self._suspects[0] < first[0]):
            first = self._suspects
        return self._waiting[first[0][2]][1]

    def _fair_turn(self) -> list[_Entry]:
        lines = self._lines.items()
        return min(lines, key=lambda line: (self._turns.get(line[0], 0), line[1][0]))[1] if lines else []

    def _turned_away(self, ticket: Ticket, now: float) -> Iterator[Effect]:
        if ticket.id in self._waiting:
            if ticket.deadline <= now:
                self._forget(ticket.id)
                yield Refuse(ticket.id, Reason.DEADLINE)
            elif len(self._waiting) > self._max_waiting:
                self._forget(ticket.id)
                yield Refuse(ticket.id, Reason.QUEUE_FULL)

    def _order(self) -> list[str]:
        """Ids in the order of their turns, if nobody comes or leaves."""
        rounds = sorted(
            (number, self._turns.get(client, 0), entry)
            for client, line in self._lines.items()
            for number, entry in enumerate(line)
        )
        order, suspects = [*self._again], [*self._suspects]
        for *_, entry in rounds:
            earlier = bisect_left(suspects, entry)
            order += [*suspects[:earlier], entry]
            del suspects[:earlier]
        return [entry[2] for entry in (*order, *suspects)]


def _discard(line: list[Any], entry: tuple[Any, ...]) -> bool:
    at = bisect_left(line, entry)
    found = at < len(line) and line[at] == entry
    if found:
        del line[at]
    return found
