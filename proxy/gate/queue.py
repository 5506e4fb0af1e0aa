"""Who waits, in the order of their turns: replays first, then clients in turn, suspects where they came."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile
from typing import Any, Literal

from proxy.gate.budget import NOTHING, Need


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request at the gate. Times are monotonic seconds.

    Attributes:
        turn: whose turn it takes (`whose_turn`).
        arrived: kept over replays, so that a replay stands before all who came after it.
        deadline: it waits until then at most.
        need: what it holds at most, as far as can be foretold.
        least: what it holds if it generates little; who runs alone needs no more to be let in.
        max_tokens: more than this it cannot generate.
        alone: a suspect: it runs only when nothing else runs, and nobody joins it.
        session: key of the conversation that it belongs to, for what the child keeps of it; "": none.
    """

    id: str
    turn: str
    arrived: float
    deadline: float
    need: Need = NOTHING
    least: Need = NOTHING
    max_tokens: int = 0
    alone: bool = False
    session: str = ""


#: The client name of every request without a key. Such clients take turns by session.
ANONYMOUS = "anonymous"

#: Arrival, order of entry, id.
_Entry = tuple[float, int, str]

#: Between whom turns are: see [queue] fairness.
Fairness = Literal["key", "session", "none"]

#: Whose last turn is longer ago than that of so many others is as good as new.
_REMEMBERED = 1024


def whose_turn(fairness: Fairness, client: str, session: str) -> str:
    """Whose turn a request takes. Without keys all clients go by one name: then sessions take turns."""
    match fairness:
        case "none":
            return ""
        case "key" if client != ANONYMOUS:
            return client
    return f"{client}/{session}"


class FairQueue:
    """Queues are sorted lists: inserting and removing moves memory, which for 10,000 waiting takes
    microseconds, and nothing stale is ever in them.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[_Entry, Ticket]] = {}
        self._again: list[_Entry] = []  # those who ran before
        self._suspects: list[_Entry] = []  # those who must run alone
        self._lines: dict[str, list[_Entry]] = {}  # the others, by whose turn they take; none is empty
        self._heads: list[tuple[int, _Entry, str]] = []  # last turn and first entry of each line, whose it is
        self._deadlines: list[tuple[float, str]] = []
        self._turns: dict[str, int] = {}  # number of the last grant, the longest ago first
        self._entries = 0
        self._grants = 0
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, id: str) -> bool:
        return id in self._tickets

    def enter(self, ticket: Ticket, *, again: bool = False) -> None:
        """Take it in: a suspect among the suspects, one that ran before ahead of all who did not."""
        self._entries += 1
        entry = (ticket.arrived, self._entries, ticket.id)
        if ticket.alone:
            insort(self._suspects, entry)
        elif again:
            insort(self._again, entry)
        else:
            line = self._taken_out(ticket.turn)
            insort(line, entry)
            self._put_back(ticket.turn, line)
        insort(self._deadlines, (ticket.deadline, ticket.id))
        self._tickets[ticket.id] = (entry, ticket)
        self._positions = None

    def forget(self, id: str) -> None:
        """Take it out, if it is here."""
        if id not in self._tickets:
            return
        entry, ticket = self._tickets.pop(id)
        _discard(self._deadlines, (ticket.deadline, id))
        if not _discard(self._again, entry) and not _discard(self._suspects, entry):
            line = self._taken_out(ticket.turn)
            _discard(line, entry)
            self._put_back(ticket.turn, line)
        self._positions = None

    def took_turn(self, ticket: Ticket) -> None:
        """It has been granted: its client is last among the clients now."""
        self._grants += 1
        line = self._taken_out(ticket.turn)
        self._turns.pop(ticket.turn, None)
        self._turns[ticket.turn] = self._grants  # the last now
        self._put_back(ticket.turn, line)
        self._forget_turns()
        self._positions = None

    def first(self, number: int) -> Iterator[Ticket]:
        """The first `number` in the order of their turns."""
        if len(self._tickets) <= min(number, 1):  # as nearly always: no order to work out
            yield from (ticket for _, ticket in self._tickets.values())
            return
        for entry in islice(self._order(), number):
            yield self._tickets[entry[2]][1]

    def late(self, now: float) -> list[str]:
        """Whose deadline has passed."""
        return [id for _, id in takewhile(lambda entry: entry[0] <= now, self._deadlines)]

    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def position(self, id: str) -> int | None:
        """Place in the order, from 1, if nobody comes or leaves; None if it does not wait."""
        if self._positions is None:
            self._positions = {entry[2]: place for place, entry in enumerate(self._order(), 1)}
        return self._positions.get(id)

    def _forget_turns(self) -> None:
        """Sessions come and go; of those that wait nothing is forgotten."""
        while len(self._turns) > _REMEMBERED and (oldest := next(iter(self._turns))) not in self._lines:
            del self._turns[oldest]

    def _taken_out(self, client: str) -> list[_Entry]:
        """A client's line, out of the order of lines: it, or the client's turn, may change now."""
        line = self._lines.pop(client, [])
        if line:
            _discard(self._heads, (self._turns.get(client, 0), line[0], client))
        return line

    def _put_back(self, client: str, line: list[_Entry]) -> None:
        if line:
            self._lines[client] = line
            insort(self._heads, (self._turns.get(client, 0), line[0], client))

    def _rounds(self) -> Iterator[_Entry]:
        """The first of each client in turn, then the second of each, and so on: in the order in which they
        would be granted, as a grant makes its client the last.
        """
        lines: Iterable[list[_Entry]] = (self._lines[client] for *_, client in self._heads)
        for place in count():
            longer = []
            for line in lines:
                yield line[place]
                if len(line) > place + 1:
                    longer.append(line)
            if not longer:
                return
            lines = longer

    def _order(self) -> Iterator[_Entry]:
        """Entries in the order of their turns. What is here must not change meanwhile."""
        # 1. Who ran before, by arrival.
        yield from self._again
        # 2. The clients in turn: whose last grant is longest ago; among new ones, who came first.
        at = 0
        for entry in self._rounds():
            # 3. A suspect, before the first that came later: it is last among those of its crash, yet nobody
            #    who comes later can keep it waiting for ever.
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
