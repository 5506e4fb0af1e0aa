"""The asyncio shell of admission.py: one future per ticket, one timer for all, and what is learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from proxy.errors import Unavailable
from proxy.gate.admission import Admission, AdmissionPreview, Effect, Grant, Reason, Refuse
from proxy.gate.answer_lengths import AnswerLengths
from proxy.gate.budget import Budget
from proxy.gate.corrections import Corrections, Peaks, PeakSample
from proxy.gate.queue import Fairness, Ticket, fairness_key
from proxy.gate.residents import CacheContent
from proxy.gate.session_rule import SessionRule
from proxy.gate.slot import NoRoomEver, Slot
from proxy.gate.snapshot import GateSnapshot
from supervisor.aio import Timer
from supervisor.memory_model.plan import least_answer
from supervisor.memory_model.sequence import MOST_SEGMENTS, SequenceDemand


class Gate:
    """Lets requests through to the child, as proxy.gate.admission decides.

    `on_sample`: called with each comparison of predicted and observed memory. `corrections`: what was learned
    about the error of the cost model; see `correct`.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        max_waiting: int,
        fairness: Fairness = "key",
        max_wait_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        on_sample: Callable[[PeakSample], None],
    ) -> None:
        self._admission = Admission(budget, max_waiting=max_waiting, sessions=SessionRule(max_wait_s))
        self._capacity = self._admission.capacity
        self._fairness: Fairness = fairness
        self._clock = clock
        self._on_sample = on_sample
        self._slots: dict[str, Slot] = {}  # of requests that have not left
        self._disconnected = 0  # slots that are retained after their request has left
        self._measured = False
        self._lengths = AnswerLengths()
        self._peaks = Peaks()
        self.corrections = Corrections()
        self._timer = Timer()
        self._timer_at: float | None = None

    # A request's journey

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
        """A ticket for a request whose answer's length is predicted from its client's past answers.

        Args:
            prompt: length of the prompt in tokens.
            cached: prompt tokens that the child's prompt cache supplies.
            segments: upper bound on the segments that the rest is read in; 0 if that is not known.
        """
        expected = min(max_tokens, self._lengths.expected(client))
        demand = SequenceDemand(prompt, expected, cached, segments=segments or MOST_SEGMENTS)
        return Ticket(
            id,
            fairness_key(self._fairness, client, session),
            arrived,
            deadline,
            demand=demand,
            least_demand=demand._replace(completion=min(expected, least_answer(prompt))),
            max_tokens=max_tokens,
            alone=alone,
            session=session if segments else "",
        )

    @contextmanager
    def enter(self, ticket: Ticket, on_rise: Callable[[int], None] = lambda _: None) -> Iterator[Slot]:
        """A slot for `ticket`, waiting or running. It ends with the block, unless it is retained."""
        slot = self._slots[ticket.id] = Slot(self, ticket, on_rise)
        try:
            self._apply(self._admission.arrive(ticket, self._clock()))
            yield slot
        finally:
            del self._slots[ticket.id]
            if not slot.grant.cancel() and not slot.grant.cancelled():
                slot.grant.exception()  # retrieve it: a refusal that its client did not wait for is no error
            self._disconnected += slot.holders > 0
            if not slot.holders:
                self._end(ticket.id)
            elif slot.dropped:
                self._apply(self._admission.free_slot(ticket.id, self._clock()))

    def requeue(self, id: str, *, alone: bool = False) -> None:
        self._peaks.ended(id)  # what was observed of an attempt that failed says nothing
        self._apply(self._admission.requeue(id, self._clock(), alone=alone))

    def end_isolation(self, id: str) -> None:
        self._apply(self._admission.end_isolation(id, self._clock()))

    def grew(self, id: str, tokens: int) -> None:
        self._apply(self._admission.grew(id, tokens, self._clock()))

    def release(self, slot: Slot) -> None:
        if not slot.holders and slot.id not in self._slots:
            self._disconnected -= 1
            self._end(slot.id)

    def answered(self, client: str, tokens: int) -> None:
        """Learn from an answer of `tokens` that came to its own end."""
        self._lengths.learn(client, tokens)

    def position(self, id: str) -> int | None:
        """Position in the queue, from 1; None if it does not wait."""
        return self._admission.queue.position(id)

    def expected_wait_s(self, id: str) -> float | None:
        """About how many seconds it still waits for its turn among sessions that do not all fit; None if it
        does not.
        """
        return self._admission.expected_wait_s(id, self._clock())

    def preview(self, client: str, prompt: int, max_tokens: int) -> AdmissionPreview:
        """What would happen to such a request if it arrived now. Changes nothing."""
        now = self._clock()
        ticket = self.ticket("", client, arrived=now, deadline=now, prompt=prompt, max_tokens=max_tokens)
        return self._admission.preview(ticket, now)

    # Facts about the child and the machine

    def set_budget(self, budget: Budget) -> None:
        """Share out `budget` from now on, its cost model corrected by what was learned."""
        now = self._clock()
        corrected = replace(budget, costs=budget.costs.corrected(*self.corrections.factors(now)))
        self._apply(self._admission.set_budget(corrected, now))

    def correct(self, corrections: Corrections) -> None:
        """Go on from what was learned before."""
        self.corrections = corrections
        self.set_budget(self._capacity.budget)

    def set_retained(self, retained: int) -> None:
        """Finished sequences hold `retained` bytes: what an idle child has active, less the weights."""
        if retained != self._capacity.retained:
            self._apply(self._admission.set_retained(retained, self._clock()))

    def set_cache(self, contents: Sequence[CacheContent] | None, confirmed: Sequence[str]) -> None:
        """The child's prompt cache holds `contents`, those of the ended requests `confirmed` included."""
        self._apply(self._admission.set_cache(contents, confirmed, self._clock()))

    def prompt_read(self, cached: int, tokens: int, seconds: float) -> None:
        """The child, at work on nothing else, read a prompt from token `cached` on in `seconds`."""
        sessions = self._admission.sessions
        sessions.speed = sessions.speed.observed(cached, tokens, seconds)

    def hold(self, on: bool) -> None:
        """Grant nothing while `on`."""
        if on != self._capacity.held:
            self._apply(self._admission.hold(on, self._clock()))

    def observe(self, active: int, peak: int | None = None) -> None:
        """The child has `active` bytes in use, and never had more than `peak`."""
        self._measured = True
        weights = self._capacity.budget.costs.weights
        rises = self._peaks.observe(active - weights, None if peak is None else peak - weights)
        for id, rise in rises.items():
            if id in self._slots:
                self._slots[id].on_rise(rise)

    @contextmanager
    def internal_request(self) -> Iterator[bool]:
        """Count an internal request at the child within the block; no suspect is admitted meanwhile.

        Yields False, and counts nothing, while a suspect has the child to itself.
        """
        if not self._admission.begin_internal_request():
            yield False
            return
        try:
            yield True
        finally:
            self._apply(self._admission.end_internal_request(self._clock()))

    @property
    def idle(self) -> bool:
        """Whether nothing runs, nothing waits and admissions are not held."""
        return not self._capacity and not self._admission.queue and not self._capacity.held

    def snapshot(self) -> GateSnapshot:
        return self._admission.snapshot(
            disconnected=self._disconnected, corrections=self.corrections.factors(self._clock())
        )

    # Machinery

    def _end(self, id: str) -> None:
        now = self._clock()
        sample = self._peaks.ended(id)
        if sample is not None:
            before = self.corrections.factors(now)
            self.corrections = self.corrections.learned(sample, now)
            self._on_sample(sample)
            if self.corrections.factors(now) != before:
                self.set_budget(self._capacity.budget)
        self._apply(self._admission.leave(id, self._clock(), measured=self._measured))

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                self._note_prediction(effect.id)
            grant = self._slots[effect.id].grant
            if grant.done():
                continue  # its client was cancelled a moment ago, and it is about to leave
            match effect:
                case Grant(reserved=reserved):
                    grant.set_result(reserved)
                case Refuse(reason=Reason.NEVER_FITS, limit=limit):
                    grant.set_exception(NoRoomEver(limit or 0))
                case Refuse(reason=reason, retry_s=retry_s):
                    grant.set_exception(Unavailable(reason.value, retry_after_s=retry_s))
        self._set_timer()

    def _note_prediction(self, id: str) -> None:
        """Remember the uncorrected prediction for all running requests, which now include `id`."""
        costs, retained = self._capacity.budget.costs.corrected(1.0, 1.0), self._capacity.retained
        demands = [each.demand for each in self._capacity.running]
        self._peaks.granted(id, costs.peak(demands, retained) - costs.weights, retained)

    def _set_timer(self) -> None:
        deadline = self._admission.next_deadline()
        if deadline == self._timer_at:
            return
        self._timer.clear()
        self._timer_at = deadline
        if deadline is not None:
            self._timer.set(deadline - self._clock(), self._wake)

    def _wake(self) -> None:
        self._timer_at = None
        self._apply(self._admission.wake(self._clock()))
