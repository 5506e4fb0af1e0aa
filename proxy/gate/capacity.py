"""Who runs, what is reserved for each, and whether one more has room beside them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.gate.budget import Budget, Need
from proxy.gate.queue import Ticket

#: When more is generated than was expected, so many tokens more are reckoned with, and a quarter of all.
_MORE = 256


@dataclass(slots=True)
class Running:
    """A request that was granted, what it needs as far as is known now, and what its grant reserved.

    Attributes:
        reserved: bytes by which the fullest moment of all who run rose with it.
        generated: tokens so far; 0 while its prompt is read.
        among, longest: prompts that are read while its own is, its own included, and the longest of them.
    """

    ticket: Ticket
    need: Need
    reserved: int
    generated: int = 0
    among: int = 1
    longest: int = 0

    def beside(self, other: Need) -> None:
        """Another's prompt is read from now on, too, while its own still is."""
        self.among += 1
        self.longest = max(self.longest, other.prompt)


class Capacity:
    """The running, the budget, and what else is in the way.

    Attributes:
        retained: bytes that finished sequences hold.
        held: nobody gets a place, memory being short whatever was foretold.
        errands: requests of the proxy's own that the child has.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.retained = 0
        self.held = False
        self.errands = 0
        self._running: dict[str, Running] = {}
        self._vacated: set[str] = set()  # of the running, those whose place another may have
        self._last: Need | None = None  # of the last that ran, when nothing runs

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, id: str) -> bool:
        return id in self._running

    @property
    def running(self) -> tuple[Running, ...]:
        """In the order of their grants."""
        return tuple(self._running.values())

    @property
    def places_taken(self) -> int:
        """By those who run, less those who will be dropped soon."""
        return len(self._running) - len(self._vacated)

    @property
    def solitary(self) -> bool:
        """Whether a suspect has the child for itself: nobody is let in beside one."""
        return len(self._running) == 1 and next(iter(self._running.values())).ticket.alone

    @property
    def reserved(self) -> int:
        """Bytes of the fullest moment that is to come, everything counted, as far as can be foretold."""
        return self.budget.costs.peak(self._needs(), self.retained)

    @property
    def holding(self) -> int:
        """Bytes of KV that those who generate have at least now."""
        grown = [each.need._replace(completion=each.generated) for each in self.running if each.generated]
        return self.budget.costs.kv(grown)

    def has_place(self, ticket: Ticket) -> bool:
        """Whether it may run by all but its cost."""
        if self.held or self.solitary or (ticket.alone and (self._running or self.errands)):
            return False
        places = self.budget.max_running
        return self.places_taken < places and len(self._vacated) <= places

    def fits(self, ticket: Ticket) -> bool:
        """Whether it may run by its cost. Alone, the least that it may need has to fit: what it generates
        beyond that is seen to when it does.
        """
        return self.budget.has_room(self._needs(), self._wanted(ticket), self._staying())

    def would_fit(self, ticket: Ticket) -> bool:
        """Whether it would, if nothing were retained."""
        return self.budget.has_room(self._needs(), self._wanted(ticket), 0)

    def lacking(self, ticket: Ticket) -> int:
        """Bytes that finished sequences hold too many of for it; 0 if that is not what is in its way."""
        if self.budget.ceiling is None or not self.has_place(ticket) or not self.would_fit(ticket):
            return 0
        peak = self.budget.costs.peak((*self._needs(), self._wanted(ticket)), self._staying())
        return max(0, peak - self.budget.ceiling)

    def take(self, ticket: Ticket) -> int:
        """It runs from now on; the bytes that are reserved for it."""
        self.retained, self._last = self._staying(), None
        alone = not self._running and not self.budget.has_room((), ticket.need, self.retained)
        need, before = ticket.least if alone else ticket.need, self.reserved
        unread = [each for each in self._running.values() if not each.generated]
        longest = max([need.prompt, *[each.need.prompt for each in unread]])
        taken = Running(ticket, need, 0, among=1 + len(unread), longest=longest)
        for each in unread:
            each.beside(need)
        self._running[ticket.id] = taken
        taken.reserved = max(0, self.reserved - before)
        return taken.reserved

    def get(self, id: str) -> Running | None:
        """The running request of this id."""
        return self._running.get(id)

    def is_unread(self, id: str) -> bool:
        """Whether it runs, and no token of its answer has come yet."""
        return id in self._running and not self._running[id].generated

    def grow(self, id: str, tokens: int) -> None:
        """It has generated `tokens` so far, so its prompt has been read, and no newcomer's will be beside it.

        No less than what was foretold of its answer is still reckoned with.
        """
        running = self._running.get(id)
        if running is None or not tokens:
            return
        need, completion = running.need, running.need.completion
        if tokens > completion:
            completion = max(tokens, min(running.ticket.max_tokens, tokens + _MORE + tokens // 4))
        running.need = Need(need.prompt, completion, need.cached, running.among, running.longest)
        running.generated = tokens

    def join(self, id: str) -> None:
        """If it runs, it is a suspect no longer."""
        running = self._running.get(id)
        if running is not None:
            running.ticket = replace(running.ticket, alone=False)

    def vacate(self, id: str) -> None:
        """If it runs, it needs its place no longer, though what it has reserved. As many as there are places
        may be so; then it is waited for that they end.
        """
        if id in self._running:
            self._vacated.add(id)

    def release(self, id: str) -> Ticket | None:
        """It runs no more; None if it did not."""
        running = self._running.pop(id, None)
        if running is None:
            return None
        self._vacated.discard(id)
        if not self._running:
            self._last = running.need._replace(completion=running.generated)
        return running.ticket

    def leave_behind(self, id: str) -> None:
        """If it runs, reckon with what is kept of it, until somebody has measured what is."""
        if id not in self._running:
            return
        self.retained += self.budget.costs.left(self._needs())
        if len(self._running) == 1:  # what goes when the next one joins
            self.retained += self.budget.costs.stale(self._running[id].need)

    def _wanted(self, ticket: Ticket) -> Need:
        return ticket.need if self._running else ticket.least

    def _staying(self) -> int:
        """Of what is retained, what will still be when the next one has joined."""
        stale = 0 if self._last is None else self.budget.costs.stale(self._last)
        return max(0, self.retained - stale)

    def _needs(self) -> tuple[Need, ...]:
        return tuple([each.need for each in self._running.values()])
