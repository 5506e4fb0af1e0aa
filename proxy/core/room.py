"""Who runs, what is reserved for each, and whether one more has room beside them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.core.budget import Budget, Need
from proxy.core.waiting import Ticket

#: When more is generated than was expected, so many tokens more are reckoned with, and a quarter of all.
_MORE = 256


@dataclass(frozen=True, slots=True)
class Running:
    """A request that was granted, what it needs as far as is known now, and what its grant reserved.

    `reserved`: bytes by which the fullest moment of all who run rose with it.
    """

    ticket: Ticket
    need: Need
    reserved: int


class Room:
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

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, id: str) -> bool:
        return id in self._running

    @property
    def running(self) -> tuple[Running, ...]:
        """In the order of their grants."""
        return tuple(self._running.values())

    @property
    def solitary(self) -> bool:
        """Whether a suspect has the child for itself."""
        return any(each.ticket.alone for each in self._running.values())

    @property
    def reserved(self) -> int:
        """Bytes of the fullest moment that is to come, everything counted, as far as can be foretold."""
        return self.budget.costs.peak(self._needs(), self.retained)

    def has_place(self, ticket: Ticket) -> bool:
        """Whether it may run by all but its cost."""
        if self.held or self.solitary or (ticket.alone and (self._running or self.errands)):
            return False
        return len(self._running) < self.budget.max_running

    def fits(self, ticket: Ticket) -> bool:
        """Whether it may run by its cost. Alone, the least that it may need has to fit: what it generates
        beyond that is seen to when it does.
        """
        need = ticket.need if self._running else ticket.least
        return self.budget.has_room(self._needs(), need, self.retained)

    def would_fit(self, ticket: Ticket) -> bool:
        """Whether it would, if nothing were retained."""
        need = ticket.need if self._running else ticket.least
        return self.budget.has_room(self._needs(), need, 0)

    def lacking(self, ticket: Ticket) -> int:
        """Bytes that finished sequences hold too many of for it; 0 if that is not what is in its way."""
        if self.budget.ceiling is None or not self.has_place(ticket) or not self.would_fit(ticket):
            return 0
        need = ticket.need if self._running else ticket.least
        peak = self.budget.costs.peak((*self._needs(), need), self.retained)
        return max(0, peak - self.budget.ceiling)

    def take(self, ticket: Ticket) -> int:
        """It runs from now on; the bytes that are reserved for it."""
        alone = not self._running and not self.budget.has_room((), ticket.need, self.retained)
        need, before = ticket.least if alone else ticket.need, self.reserved
        self._running[ticket.id] = Running(ticket, need, 0)
        reserved = max(0, self.reserved - before)
        self._running[ticket.id] = Running(ticket, need, reserved)
        return reserved

    def grow(self, id: str, tokens: int) -> None:
        """It has generated `tokens` so far: no less than what was foretold is still reckoned with."""
        running = self._running.get(id)
        if running is None or tokens <= running.need.completion:
            return
        more = min(running.ticket.max_tokens, tokens + _MORE + tokens // 4)
        self._running[id] = replace(running, need=replace(running.need, completion=max(tokens, more)))

    def join(self, id: str) -> None:
        """If it runs, it is a suspect no longer."""
        running = self._running.get(id)
        if running is not None:
            self._running[id] = replace(running, ticket=replace(running.ticket, alone=False))

    def release(self, id: str) -> Ticket | None:
        """It runs no more; None if it did not."""
        running = self._running.pop(id, None)
        return running.ticket if running is not None else None

    def _needs(self) -> tuple[Need, ...]:
        return tuple(each.need for each in self._running.values())
