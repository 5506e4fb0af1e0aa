"""Pure. Running requests, their memory reservations, and whether one more fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket
from supervisor.memory_model.sequence import SequenceDemand

#: A request that generates more than was expected is given this many more, and a quarter of what it has.
_MORE_TOKENS = 256


@dataclass(slots=True)
class Running:
    """A granted request.

    Attributes:
        demand: its demand by what is known now.
        reserved: bytes by which its grant raised the predicted peak of all running requests.
        generated: tokens so far; 0 while its prompt is read.
        read_together: prompts that are read at the same time as its own, which counts too.
        longest_prompt: length of the longest of these, in tokens.
    """

    ticket: Ticket
    demand: SequenceDemand
    reserved: int
    generated: int
    read_together: int
    longest_prompt: int


class Capacity:
    """The running requests, the budget they share, and what else keeps a request from running.

    Attributes:
        retained: bytes that finished sequences hold, as last measured or estimated.
        held: no request is admitted, because memory is short whatever was predicted.
        internal_requests: internal requests that the child is at work on.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.retained = 0
        self.held = False
        self.internal_requests = 0
        self._running: dict[str, Running] = {}
        self._freed: set[str] = set()  # running requests whose slot another may have
        self._last: SequenceDemand | None = None  # of the request that ended last, while nothing runs

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, id: str) -> bool:
        return id in self._running

    @property
    def running(self) -> tuple[Running, ...]:
        """In the order of their grants."""
        return tuple(self._running.values())

    @property
    def slots_taken(self) -> int:
        """Running requests, less those that the child is about to drop."""
        return len(self._running) - len(self._freed)

    @property
    def isolated(self) -> bool:
        """Whether a suspect has the child to itself."""
        return len(self._running) == 1 and next(iter(self._running.values())).ticket.alone

    @property
    def reserved(self) -> int:
        """Predicted peak memory of all running requests, weights and retained memory included, in bytes."""
        return self.budget.costs.peak(self._demands(), self.retained)

    @property
    def generating_kv(self) -> int:
        """Lower bound on the KV that generating requests hold now, in bytes."""
        grown = [each.demand._replace(completion=each.generated) for each in self.running if each.generated]
        return self.budget.costs.kv(grown)

    def has_slot(self, ticket: Ticket) -> bool:
        """Whether it may run, memory aside."""
        if self.held or self.isolated or (ticket.alone and (self._running or self.internal_requests)):
            return False
        slots = self.budget.max_running
        return self.slots_taken < slots and len(self._freed) <= slots

    def fits(self, ticket: Ticket) -> bool:
        """Whether there is memory for it now.

        A request that would run alone needs only its least demand; what it generates beyond that is dealt
        with when it does.
        """
        return self.budget.has_room(self._demands(), self._demand_of(ticket), self._retained_after_join())

    def would_fit(self, ticket: Ticket) -> bool:
        """Whether there would be memory for it if nothing were retained."""
        return self.budget.has_room(self._demands(), self._demand_of(ticket), 0)

    def eviction_needed(self, ticket: Ticket) -> int:
        """Retained bytes that must be evicted before it fits; 0 if something else blocks it."""
        if self.budget.ceiling is None or not self.has_slot(ticket) or not self.would_fit(ticket):
            return 0
        together = (*self._demands(), self._demand_of(ticket))
        return max(0, self.budget.costs.peak(together, self._retained_after_join()) - self.budget.ceiling)

    def admit(self, ticket: Ticket) -> int:
        """Run it from now on; returns the bytes that are reserved for it."""
        self.retained, self._last = self._retained_after_join(), None
        alone = not self._running and not self.budget.has_room((), ticket.demand, self.retained)
        demand, before = ticket.least_demand if alone else ticket.demand, self.reserved
        unread = [each for each in self._running.values() if not each.generated]
        longest = max([demand.prompt, *[each.demand.prompt for each in unread]])
        for each in unread:
            each.read_together += 1
            each.longest_prompt = max(each.longest_prompt, demand.prompt)
        admitted = self._running[ticket.id] = Running(ticket, demand, 0, 0, 1 + len(unread), longest)
        admitted.reserved = max(0, self.reserved - before)
        return admitted.reserved

    def get(self, id: str) -> Running | None:
        """The running request of this id."""
        return self._running.get(id)

    def is_unread(self, id: str) -> bool:
        """Whether it runs and has not generated a token yet."""
        return id in self._running and not self._running[id].generated

    def grow(self, id: str, tokens: int) -> None:
        """It has generated `tokens` so far: its prompt has been read, and no newcomer's will be read with it.

        The predicted completion stays reserved until it is exceeded.
        """
        running = self._running.get(id)
        if running is None or not tokens:
            return
        demand, completion = running.demand, running.demand.completion
        if tokens > completion:
            completion = max(tokens, min(running.ticket.max_tokens, tokens + _MORE_TOKENS + tokens // 4))
        running.demand = SequenceDemand(
            demand.prompt, completion, demand.cached, running.read_together, running.longest_prompt
        )
        running.generated = tokens

    def end_isolation(self, id: str) -> None:
        """If it runs, let others run at the same time."""
        running = self._running.get(id)
        if running is not None:
            running.ticket = replace(running.ticket, alone=False)

    def free_slot(self, id: str) -> None:
        """If it runs, free its slot but not its memory; at most `max_running` requests may be so."""
        if id in self._running:
            self._freed.add(id)

    def end_internal_request(self) -> None:
        """An internal request has ended. As it joined, the last snapshot went: no join frees that again."""
        self.internal_requests -= 1
        self._last = None

    def release(self, id: str) -> Ticket | None:
        """Remove it from the running requests; None if it did not run."""
        running = self._running.pop(id, None)
        if running is None:
            return None
        self._freed.discard(id)
        if not self._running:
            self._last = running.demand._replace(completion=running.generated)
        return running.ticket

    def leave_behind(self, id: str) -> None:
        """If it runs, count an estimate of what the server retains of it, until that is measured."""
        if id not in self._running:
            return
        self.retained += self.budget.costs.left(self._demands())
        if len(self._running) == 1:  # its snapshot stays until the next request joins
            self.retained += self.budget.costs.stale(self._running[id].demand)

    def _demand_of(self, ticket: Ticket) -> SequenceDemand:
        return ticket.demand if self._running else ticket.least_demand

    def _retained_after_join(self) -> int:
        """Retained bytes that will still be there once the next request has joined."""
        stale = 0 if self._last is None else self.budget.costs.stale(self._last)
        return max(0, self.retained - stale)

    def _demands(self) -> tuple[SequenceDemand, ...]:
        return tuple([each.demand for each in self._running.values()])
