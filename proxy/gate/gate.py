"""The asyncio shell of core.admission: one future per ticket, one timer for all, and what is learned."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from proxy.errors import Unavailable
from proxy.gate.admission import Admission, AdmissionPreview
from proxy.gate.budget import Budget, Need
from proxy.gate.corrections import Corrections, LearnedState, PeakSample
from proxy.gate.events import (
    Arrive,
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
    SetRetained,
    Wake,
)
from proxy.gate.queue import Fairness, Ticket, whose_turn
from proxy.gate.slot import NoRoomEver, RetainedSlots, Slot
from proxy.gate.snapshot import GateSnapshot
from supervisor.aio import Timer
from supervisor.memory_model.plan import least_answer


class Gate:
    """Lets requests through to the child, as core.admission decides.

    Args:
        on_sample: told how each prediction of memory turned out.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        max_waiting: int,
        fairness: Fairness = "key",
        clock: Callable[[], float] = time.monotonic,
        on_sample: Callable[[PeakSample], None] = lambda _: None,
    ) -> None:
        self._admission = Admission(budget, max_waiting=max_waiting)
        self._fairness: Fairness = fairness
        self._budget = budget
        self._clock = clock
        self._on_sample = on_sample
        self._answers: dict[str, asyncio.Future[int]] = {}
        self._rises: dict[str, Callable[[int], None]] = {}
        self._kept = RetainedSlots()
        self._measured = False
        self._experience = LearnedState()
        self._alarm = Timer()
        self._armed_for: float | None = None

    # A request's way

    def ticket(
        self,
        id: str,
        client: str,
        *,
        arrived: float,
        deadline: float,
        prompt: int,
        max_tokens: int,
        session: str = "",
        cached: int = 0,
        segments: int = 0,
        alone: bool = False,
    ) -> Ticket:
        """A ticket for `prompt` tokens, `cached` of which the child has, the rest in `segments` at most; what
        will be generated is foretold from the client's past.
        """
        expected = min(max_tokens, self._experience.lengths.expected(client))
        need = Need(prompt, expected, cached, segments=segments)
        return Ticket(
            id,
            whose_turn(self._fairness, client, session),
            arrived,
            deadline,
            need=need,
            least=need._replace(completion=min(expected, least_answer(prompt))),
            max_tokens=max_tokens,
            alone=alone,
        )

    @contextmanager
    def enter(self, ticket: Ticket, on_rise: Callable[[int], None] = lambda _: None) -> Iterator[Slot]:
        """A place for `ticket`; leaving the block ends it, waiting or running, unless it is kept.

        `on_rise`: told by how many bytes the child's memory has risen while it runs.
        """
        self._answers[ticket.id] = asyncio.get_running_loop().create_future()
        self._rises[ticket.id] = on_rise
        place = Slot(self, ticket.id, alone=ticket.alone)
        try:
            self._feed(Arrive(ticket))
            yield place
        finally:
            answer = self._answers.pop(ticket.id)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen: a refusal that its client did not wait for is no fault
            del self._rises[ticket.id]
            if self._kept.leave(ticket.id):
                self._ended(ticket.id)
            elif place.dropped:
                self._feed(FreeSlot(ticket.id))

    async def wait(self, id: str) -> int:
        return await self._answers[id]

    def requeue(self, id: str, *, alone: bool = False) -> None:
        self._answers[id] = asyncio.get_running_loop().create_future()
        self._experience.broken_off(id)
        self._feed(Requeue(id, alone))

    def join(self, id: str) -> None:
        self._feed(EndIsolation(id))

    def grew(self, id: str, tokens: int) -> None:
        self._feed(Grew(id, tokens))

    def keep(self, id: str) -> Callable[[], None]:
        self._kept.keep(id)
        return functools.partial(self._release, id)

    def answered(self, client: str, tokens: int) -> None:
        """An answer came to its end after `tokens`."""
        self._experience.lengths.learn(client, tokens)

    def position(self, id: str) -> int | None:
        return self._admission.position(id)

    def would_run(self, client: str, prompt: int, max_tokens: int) -> AdmissionPreview:
        """What would become of such a request if it came now. Changes nothing."""
        now = self._clock()
        ticket = self.ticket("", client, arrived=now, deadline=now, prompt=prompt, max_tokens=max_tokens)
        return self._admission.outlook(ticket, now)

    # What is known of the child and the machine

    def set_budget(self, budget: Budget) -> None:
        alone, together = self._experience.corrections.factors(self._clock())
        self._budget = replace(budget, costs=budget.costs.corrected(alone, together))
        self._feed(SetBudget(self._budget))

    @property
    def corrections(self) -> Corrections:
        """What was learned of the law so far."""
        return self._experience.corrections

    def correct(self, corrections: Corrections) -> None:
        """Go on from what was learned before."""
        self._experience.corrections = corrections
        self.set_budget(self._budget)

    def set_retained(self, retained: int) -> None:
        """Bytes that finished sequences hold: what the child has when it is idle, less the weights."""
        if retained != self._admission.retained:
            self._feed(SetRetained(retained))

    def hold(self, on: bool) -> None:
        """Grant nothing until told otherwise."""
        if on != self._admission.held:
            self._feed(Hold(on))

    def saw(self, held: int, highest: int | None = None) -> None:
        """The child has `held` bytes active, and never had more than `highest`."""
        self._measured = True
        for id, rise in self._experience.saw(held, highest, self._budget.costs.weights).items():
            if id in self._rises:
                self._rises[id](rise)

    @contextmanager
    def errand(self) -> Iterator[bool]:
        """A request of our own is at the child within the block, and no suspect is let in meanwhile.

        Gives False, and does nothing, while a suspect has the child for itself.
        """
        if self._admission.solitary:
            yield False
            return
        self._feed(InternalRequest(begun=True))
        try:
            yield True
        finally:
            self._feed(InternalRequest(begun=False))

    def running(self) -> tuple[tuple[str, Need, int], ...]:
        """(id, what it needs as far as is known now, bytes reserved at its grant) of each that runs."""
        return tuple((each.ticket.id, each.need, each.reserved) for each in self._admission.running)

    def lacking(self) -> int:
        """Bytes that finished sequences hold too many of for the first that waits; 0 if that is not it."""
        return self._admission.lacking()

    @property
    def idle(self) -> bool:
        """Whether the child has nothing to do and nobody waits."""
        return not self._admission.running and not self._admission.waiting

    def snapshot(self) -> GateSnapshot:
        admission = self._admission
        return GateSnapshot(
            running=len(admission.running),
            places_taken=admission.places_taken,
            waiting=admission.waiting,
            leaving=self._kept.leaving,
            budget=self._budget,
            held=admission.held,
            reserved=admission.reserved,
            retained=admission.retained,
            holding=admission.holding,
            lacking=admission.lacking(),
            corrections=self._experience.corrections.factors(self._clock()),
        )

    # The machinery

    def _release(self, id: str) -> None:
        if self._kept.release(id):
            self._ended(id)

    def _ended(self, id: str) -> None:
        now, before = self._clock(), self._experience.corrections
        sample = self._experience.ended(id, now)
        if sample is not None:
            self._on_sample(sample)
            if self._experience.corrections.factors(now) != before.factors(now):
                self.set_budget(self._budget)
        self._feed(Leave(id, self._measured))

    def _feed(self, event: Event) -> None:
        for effect in self._admission.handle(event, self._clock()):
            answer = self._answers[effect.id]
            if isinstance(effect, Grant):
                needs = [each.need for each in self._admission.running]
                self._experience.granted(effect.id, self._budget.costs, needs, self._admission.retained)
            if answer.done():
                continue  # cancelled a moment ago; its Leave is on the way
            match effect:
                case Grant(reserved=reserved):
                    answer.set_result(reserved)
                case Refuse(reason=Reason.NEVER_FITS, limit=limit):
                    answer.set_exception(NoRoomEver(limit or 0))
                case Refuse(reason=reason):
                    answer.set_exception(Unavailable(reason.value))
        self._arm()

    def _arm(self) -> None:
        deadline = self._admission.next_deadline()
        if deadline == self._armed_for:
            return
        self._alarm.clear()
        self._armed_for = deadline
        if deadline is not None:
            self._alarm.set(deadline - self._clock(), self._wake)

    def _wake(self) -> None:
        self._armed_for = None
        self._feed(Wake())
