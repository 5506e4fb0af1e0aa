"""The asyncio shell of core.admission: one future per ticket, one timer for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from proxy.core.admission import (
    Admission,
    Arrive,
    Budget,
    Errand,
    Event,
    Grant,
    Join,
    Leave,
    Refuse,
    Requeue,
    SetBudget,
    Ticket,
    Wake,
)
from proxy.errors import Unavailable


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """For status and metrics."""

    running: int
    waiting: int
    budget: Budget


class Place:
    """A request's place at the gate, from `Gate.enter` on."""

    __slots__ = ("_gate", "alone", "id")

    def __init__(self, gate: Gate, id: str, *, alone: bool) -> None:
        self._gate = gate
        self.id = id
        self.alone = alone

    async def granted(self) -> None:
        """Wait for the grant. Raises Unavailable when the queue is full or the deadline has passed."""
        await self._gate.wait(self.id)

    def again(self, *, alone: bool = False) -> None:
        """Give the grant back and wait by the old arrival, before all who came later.

        `alone`: until nothing else runs, and nothing else will run beside it.
        """
        self.alone = alone
        self._gate.requeue(self.id, alone=alone)

    def join(self) -> None:
        """Let others run beside one that was granted alone."""
        self.alone = False
        self._gate.join(self.id)

    @property
    def position(self) -> int | None:
        """Place in the queue, from 1; None once granted."""
        return self._gate.position(self.id)


class Gate:
    """Lets requests through to the child, as core.admission decides."""

    def __init__(
        self,
        budget: Budget,
        *,
        max_waiting: int,
        fairness: Literal["key", "none"] = "key",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = Admission(budget, max_waiting=max_waiting, fairness=fairness)
        self._budget = budget
        self._clock = clock
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None

    @contextmanager
    def enter(self, ticket: Ticket) -> Iterator[Place]:
        """A place for `ticket`; leaving the block ends it, waiting or running."""
        self._answers[ticket.id] = asyncio.get_running_loop().create_future()
        try:
            self._feed(Arrive(ticket))
            yield Place(self, ticket.id, alone=ticket.alone)
        finally:
            answer = self._answers.pop(ticket.id)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen: a refusal that its client did not wait for is no fault
            self._feed(Leave(ticket.id))

    @contextmanager
    def errand(self) -> Iterator[bool]:
        """A request of our own is at the child within the block, and no suspect is let in meanwhile.

        Gives False, and does nothing, while a suspect has the child for itself.
        """
        if self._admission.solitary:
            yield False
            return
        self._feed(Errand(begun=True))
        try:
            yield True
        finally:
            self._feed(Errand(begun=False))

    async def wait(self, id: str) -> None:
        await self._answers[id]

    def requeue(self, id: str, *, alone: bool = False) -> None:
        self._answers[id] = asyncio.get_running_loop().create_future()
        self._feed(Requeue(id, alone))

    def join(self, id: str) -> None:
        self._feed(Join(id))

    def set_budget(self, budget: Budget) -> None:
        self._budget = budget
        self._feed(SetBudget(budget))

    def position(self, id: str) -> int | None:
        return self._admission.position(id)

    def snapshot(self) -> GateSnapshot:
        return GateSnapshot(self._admission.running, self._admission.waiting, self._budget)

    def _feed(self, event: Event) -> None:
        for effect in self._admission.handle(event, self._clock()):
            answer = self._answers[effect.id]
            if answer.done():
                continue  # cancelled a moment ago; its Leave is on the way
            match effect:
                case Grant():
                    answer.set_result(None)
                case Refuse(reason=reason):
                    answer.set_exception(Unavailable(reason.value))
        self._arm()

    def _arm(self) -> None:
        deadline = self._admission.next_deadline()
        if deadline == self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._armed_for = deadline
        if deadline is not None:
            wait = max(0.0, deadline - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._wake)

    def _wake(self) -> None:
        self._armed_for = None
        self._feed(Wake())
