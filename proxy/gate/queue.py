"""Pure. Waiting requests in the order of their turns: replays, then clients by round robin."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile
from typing import Any, Literal

from supervisor.memory_model.sequence import SequenceDemand

#: Placeholder for the demand of a request about which nothing is known yet.
_UNKNOWN = SequenceDemand()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request at the gate. Times are monotonic seconds.

    Attributes:
        fairness_key: requests with the same key share turns; see `fairness_key`.
        arrived: stays the same over replays, so that a replay comes before all later requests.
        deadline: it is refused if it still waits then.
        demand: its predicted demand.
        least_demand: its demand if it generates little; enough to be admitted when it would run alone.
        max_tokens: limit on what it can generate.
        alone: it is a suspect, which runs only while nothing else does.
        session: the session that it belongs to, for what the child keeps of it; "": that is not known.
    """

    id: str
    fairness_key: str
    arrived: float
    deadline: float
    demand: SequenceDemand = _UNKNOWN
    least_demand: SequenceDemand = _UNKNOWN
    max_tokens: int = 0
    alone: bool = False
    session: str = ""


#: The client name of every request without a key. Such clients take turns by session.
ANONYMOUS = "anonymous"

#: Arrival, order of entry, id.
_Entry = tuple[float, int, str]

#: What takes turns: API keys, sessions, or nothing. See [queue] fairness.
Fairness = Literal["key", "session", "none"]

#: Fairness keys remembered for round robin; one that has been idle for longer is treated as new.
_REMEMBERED_KEYS = 1024


def fairness_key(fairness: Fairness, client: str, session: str) -> str:
    """The key by which a request takes turns. Clients without an API key take turns by session."""
    match fairness:
        case "none":
            return ""
        case "key" if client != ANONYMOUS:
            return client
    return f"{client}/{session}"


class FairQueue:
    """The waiting requests, in sorted lists that never hold a stale entry.

    Inserting and removing moves memory, which takes microseconds with 10,000 waiting requests.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[_Entry, Ticket]] = {}
        self._replays: list[_Entry] = []
        self._suspects: list[_Entry] = []
        self._lines: dict[str, list[_Entry]] = {}  # all others, by fairness key; no line is empty
        self._heads: list[tuple[int, _Entry, str]] = []  # last turn, first entry and key of each line
        self._deadlines: list[tuple[float, str]] = []
        self._turns: dict[str, int] = {}  # number of each key's last grant, oldest first
        self._entries = 0
        self._grants = 0
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, id: str) -> bool:
        return id in self._tickets

    def enter(self, ticket: Ticket, *, replay: bool = False) -> None:
        """Add a request: a suspect among the suspects, a replay ahead of all that never ran."""
        self._entries += 1
        entry = (ticket.arrived, self._entries, ticket.id)
        if ticket.alone:
            insort(self._suspects, entry)
        elif replay:
            insort(self._replays, entry)
        else:
            line = self._take_line(ticket.fairness_key)
            insort(line, entry)
            self._put_line(ticket.fairness_key, line)
        insort(self._deadlines, (ticket.deadline, ticket.id))
        self._tickets[ticket.id] = (entry, ticket)
        self._positions = None

    def remove(self, id: str) -> None:
        """Remove a request if it waits."""
        if id not in self._tickets:
            return
        entry, ticket = self._tickets.pop(id)
        _discard(self._deadlines, (ticket.deadline, id))
        if not _discard(self._replays, entry) and not _discard(self._suspects, entry):
            line = self._take_line(ticket.fairness_key)
            _discard(line, entry)
            self._put_line(ticket.fairness_key, line)
        self._positions = None

    def took_turn(self, ticket: Ticket) -> None:
        """Its request was granted: its key now has the last turn."""
        self._grants += 1
        key = ticket.fairness_key
        line = self._take_line(key)
        self._turns.pop(key, None)
        self._turns[key] = self._grants  # inserted last
        self._put_line(key, line)
        self._forget_turns()
        self._positions = None

    def first(self, number: int) -> Iterator[Ticket]:
        """The first `number` requests in the order of their turns."""
        if len(self._tickets) <= min(number, 1):  # the usual case, in which there is no order to work out
            yield from (ticket for _, ticket in self._tickets.values())
            return
        for entry in islice(self._order(), number):
            yield self._tickets[entry[2]][1]

    def expired(self, now: float) -> list[Ticket]:
        """Requests whose deadline has passed."""
        late = takewhile(lambda entry: entry[0] <= now, self._deadlines)
        return [self._tickets[id][1] for _, id in late]

    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def position(self, id: str) -> int | None:
        """Position in the order as it stands, from 1; None if it does not wait."""
        if self._positions is None:
            self._positions = {entry[2]: position for position, entry in enumerate(self._order(), 1)}
        return self._positions.get(id)

    def _forget_turns(self) -> None:
        """Forget the oldest turns beyond the limit, but none of a key that has waiting requests."""
        while len(self._turns) > _REMEMBERED_KEYS and (oldest := next(iter(self._turns))) not in self._lines:
            del self._turns[oldest]

    def _take_line(self, key: str) -> list[_Entry]:
        """Take a key's line out of the order of lines, so that the line or the key's last turn may change."""
        line = self._lines.pop(key, [])
        if line:
            _discard(self._heads, (self._turns.get(key, 0), line[0], key))
        return line

    def _put_line(self, key: str, line: list[_Entry]) -> None:
        if line:
            self._lines[key] = line
            insort(self._heads, (self._turns.get(key, 0), line[0], key))

    def _rounds(self) -> Iterator[_Entry]:
        """The first entry of each key in turn, then the second of each, and so on.

        This is the order in which they would be granted, since a grant gives its key the last turn.
        """
        lines: Iterable[list[_Entry]] = (self._lines[key] for *_, key in self._heads)
        for round in count():
            longer = []
            for line in lines:
                yield line[round]
                if len(line) > round + 1:
                    longer.append(line)
            if not longer:
                return
            lines = longer

    def _order(self) -> Iterator[_Entry]:
        """Entries in the order of their turns. The queue must not change while this is iterated."""
        # 1. Replays, by arrival.
        yield from self._replays
        # 2. The keys in turn: the one whose last grant is longest ago first; among new ones, by arrival.
        at = 0
        for entry in self._rounds():
            # 3. A suspect comes before the first request that arrived later: the other replays of
            #    its crash go first, yet later requests cannot keep it waiting for ever.
            before = bisect_left(self._suspects, entry)
            if before > at:
                yield from self._suspects[at:before]
                at = before
            yield entry
        yield from self._suspects[at:]


def _discard(line: list[Any], entry: tuple[Any, ...]) -> bool:
    at = bisect_left(line, entry)
    found = at < len(line) and line[at] == entry
    if found:
        del line[at]
    return found
