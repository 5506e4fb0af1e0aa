"""One request against the child, from its place in the queue to the end of its answer.

    enter the gate -> granted -> child ready -> ask -> relay ... [DONE]
         ^                                       |
         +-- replay, if the child died and the client has seen no content

A replay goes back to the gate with its old arrival, in one step with giving its grant up; so after a
restart requests run again in the order in which they came. A suspect of the death (proxy/inquest.py)
waits for the innocents, then has the child for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

from proxy.client_side import Client, ClientGone, StreamingClient, WaitingClient
from proxy.core import sse
from proxy.core.answer import Break, Phase, Verdict, judge_break
from proxy.core.blame import Solitude
from proxy.core.refusal import error_text
from proxy.errors import (
    Cancelled,
    GuardError,
    InvalidRequest,
    NeverFits,
    PromptTooLong,
    Quarantined,
    RestartingFailed,
    Unavailable,
    UpstreamFailed,
)
from proxy.gate import Gate
from proxy.job import Job, Outcome, Stage
from proxy.leaving import Leavings
from proxy.place import NoRoomEver, Place
from proxy.stalls import BLIND, Blind
from proxy.upstream import Exchange, Generation, Upstream, UpstreamBroken
from supervisor import silence
from supervisor.causes import NATURES
from supervisor.generation import NotReady, Work
from supervisor.lifecycle import State

__all__ = ["Job", "Outcome", "Relay", "RelayOptions", "Stage"]

log = logging.getLogger("mlxguard.relay")


class DeathLike(Protocol):
    """What is read of supervisor.diagnosis.Death."""

    @property
    def cause(self) -> Any: ...


class SupervisorLike(Protocol):
    """What is used of supervisor.runner.Supervisor."""

    def ready(self, timeout_s: float) -> Awaitable[Generation]: ...

    def judge(self, generation: Any) -> Awaitable[DeathLike | None]: ...

    def strained(self) -> bool: ...


class InquestLike(Protocol):
    """What is used of proxy.inquest.Inquest."""

    def solitude(self, job: Job) -> Solitude:
        """Raises PromptTooLong or Quarantined."""

    def completed(self, job: Job) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Seconds; see [queue] in proxy.toml."""

    hold_grace_s: float = 2.0
    keepalive_s: float = 5.0
    max_replays: int = 2


class Relay:
    """Serves requests that were parsed and fitted."""

    def __init__(
        self,
        supervisor: SupervisorLike,
        gate: Gate,
        upstream: Upstream,
        options: RelayOptions,
        inquest: InquestLike,
        *,
        leavings: Leavings,
        foresight: Blind = BLIND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._foresight = foresight
        self._gate = gate
        self._upstream = upstream
        self._options = options
        self._inquest = inquest
        self._leavings = leavings
        self._clock = clock

    async def serve(self, http_request: web.Request, job: Job) -> web.StreamResponse:
        """The whole answer; `job` holds its outcome afterwards, whatever happened.

        Raises:
            GuardError: nothing was sent, and this is the answer.
            asyncio.CancelledError: the client left, or the proxy stops.
        """
        client = self._client(http_request, job)
        try:
            async with client:
                try:
                    await self._complete(job, client)
                    job.outcome = Outcome.OK
                    self._gate.answered(job.client, job.completion_tokens)
                    self._inquest.completed(job)
                except GuardError as error:
                    job.outcome, job.reason = _outcome_of(error, job)
                    return await client.fail(error)
                except asyncio.CancelledError:
                    if not _cancelled_alone(job):
                        raise
                    job.outcome, job.reason = Outcome.CANCELLED, "cancelled"
                    return await client.fail(Cancelled())
                return await client.finish()
        except ClientGone as gone:
            job.outcome, job.reason = Outcome.CLIENT_GONE, "reset"
            return gone.response
        except asyncio.CancelledError:
            job.outcome, job.reason = _outcome_of_cancelling(http_request)
            raise
        finally:
            job.end(self._clock())
            self._foresight.ended(job, complete=job.outcome is Outcome.OK)

    async def _complete(self, job: Job, client: Client) -> None:
        """Attempts until one is complete. Raises GuardError when there will be none, ClientGone."""
        cached = await self._foresight.foresee(job)
        ticket = self._gate.ticket(
            job.answer.id,
            job.client,
            arrived=job.arrived,
            deadline=job.deadline,
            prompt=job.fitted.prompt_tokens,
            max_tokens=job.fitted.max_tokens,
            session=job.request.session(),
            cached=cached,
            alone=self._alone(job),
        )
        with self._gate.enter(ticket, on_rise=job.saw) as place:
            while True:
                await self._granted(job, place)
                generation = await self._ready(job)
                # It may have become a suspect, or a convict, while it waited: by a twin of its.
                solitude = self._inquest.solitude(job)
                if place.alone or not self._alone(job):
                    join = place.alone and solitude is not Solitude.WHOLE
                    try:
                        return await self._attempt(job, client, generation, place, join=join)
                    except UpstreamBroken as broken:
                        await self._after_break(job, generation, broken)
                await self._leavings.gone(job)
                place.again(alone=self._alone(job))

    def _alone(self, job: Job) -> bool:
        """Whether it may run only when nothing else does. Raises PromptTooLong or Quarantined."""
        return self._inquest.solitude(job) is not Solitude.NONE or job.retried

    async def _granted(self, job: Job, place: Place) -> None:
        job.stage = Stage.WAITING
        since = self._clock()
        try:
            await place.granted()
        except NoRoomEver as error:
            raise _never_fits(job, error.limit) from error
        finally:
            job.queue_s += self._clock() - since
        job.predicted_bytes = place.reserved

    async def _ready(self, job: Job) -> Generation:
        """Inside the gate, so that those who wait for a restart keep their order and their places."""
        job.stage = Stage.STARTING
        try:
            return await self._supervisor.ready(max(0.0, job.deadline - self._clock()))
        except NotReady as error:
            if error.snapshot.state is State.FAILED:
                cause = error.snapshot.cause
                why = NATURES[cause].explanation if cause else ""
                raise RestartingFailed("restart_failed", why) from error
            raise Unavailable("not_ready") from error

    async def _attempt(
        self, job: Job, client: Client, generation: Generation, place: Place, *, join: bool
    ) -> None:
        """Ask the child once. Raises UpstreamBroken unless the answer is complete, ClientGone.

        `join`: others may join one that was granted alone once content has come.
        """
        job.stage, job.generation, job.seen = Stage.PREFILL, generation.number, client.begin()
        job.asked = None
        await self._foresight.asking(job)
        job.answer.attempts += 1
        fitted = job.fitted
        body = job.request.upstream_body(
            prompt=fitted.prompt, max_tokens=fitted.max_tokens, stream=not job.unstreamed
        )
        with generation.busy() as work, self._foresight.asked(job):
            exchanged = self._upstream.post(
                generation,
                job.answer.path,
                body,
                via=job.via,
                on_asked=lambda: job.was_asked(self._clock()),
                on_end=self._leavings.expect(job, place, generation),
            )
            async with exchanged as exchange:
                if exchange.status != HTTPStatus.OK:
                    raise await _refusal(exchange)
                work.phase = silence.Phase.PREFILL
                self._foresight.answering(job)
                job.give_up = exchange.give_up
                try:
                    await self._relay(job, client, exchange, place, work, join=join)
                except sse.Malformed as error:
                    raise UpstreamBroken(Break.CUT, f"unreadable answer: {error}") from error
                finally:
                    job.give_up = None

    async def _relay(
        self, job: Job, client: Client, exchange: Exchange, place: Place, work: Work, *, join: bool
    ) -> None:
        seen = job.seen
        assert seen is not None
        while data := await exchange.read():
            await client.feed(data)
            place.grew(seen.events)
            if seen.content and job.stage is not Stage.DECODE:
                job.content_sent(self._clock())
                work.phase = silence.Phase.DECODE
                self._foresight.read(job)
                if join:
                    place.join()
            if seen.done:
                exchange.over = True
                return
        client.end_of_input()
        if not seen.done:
            raise UpstreamBroken(Break.CUT, "the answer ended without [DONE]")

    async def _after_break(self, job: Job, generation: Generation, broken: UpstreamBroken) -> None:
        """Returns if the request is to be run again, else raises the GuardError that ends it."""
        if broken.how is Break.NOT_CONNECTED:
            job.answer.attempts -= 1
        ours = broken.how in (Break.INVALID, Break.ENDED)
        death = None if ours else await self._supervisor.judge(generation)
        verdict = judge_break(
            job.answer,
            broken.how,
            dead=death is not None,
            max_replays=self._options.max_replays,
            strained=death is None and (broken.how is Break.ENDED or self._supervisor.strained()),
            retried=job.retried,
        )
        self._log_break(job, generation, broken, death, verdict)
        match verdict:
            case Verdict.REPLAY:
                return
            case Verdict.RETRY:
                job.retried = True
            case Verdict.INVALID:
                raise InvalidRequest(broken.detail) from broken
            case Verdict.FAILED:
                raise UpstreamFailed("answer_broke") from broken
            case Verdict.UNAVAILABLE:
                if death is not None and job.answer.phase is not Phase.CONTENT:
                    self._inquest.solitude(job)  # who was sentenced for this death is told so
                if broken.how is Break.ENDED and job.answer.phase is not Phase.CONTENT:
                    raise _never_fits(job, _smaller(job.fitted.prompt_tokens)) from broken
                raise Unavailable("child_died" if death else "no_memory") from broken

    def _log_break(
        self,
        job: Job,
        generation: Generation,
        broken: UpstreamBroken,
        death: DeathLike | None,
        verdict: Verdict,
    ) -> None:
        fields = {
            "generation": generation.number,
            "how": broken.how.name.lower(),
            "cause": str(death.cause) if death else None,
            "verdict": verdict.value,
            "attempts": job.answer.attempts,
        }
        # What the child itself says may quote a prompt; only our own words go into the log.
        if broken.how in (Break.CUT, Break.NOT_CONNECTED):
            fields["detail"] = broken.detail
        log.warning("answer_broke", extra=fields)

    def _client(self, http_request: web.Request, job: Job) -> Client:
        if not job.request.stream:
            return WaitingClient(job)
        return StreamingClient(
            http_request,
            job,
            hold_grace_s=self._options.hold_grace_s,
            keepalive_s=self._options.keepalive_s,
            clock=self._clock,
            describe=lambda: self._describe(job),
        )

    def _describe(self, job: Job) -> str:
        """What a keep-alive comment says."""
        match job.stage:
            case Stage.WAITING:
                return f"queued position={self._gate.position(job.answer.id) or 0}"
            case Stage.STARTING:
                return "restarting" if job.answer.attempts else "starting"
            case Stage.PREFILL if job.seen and job.seen.progress:
                return "prefill {}/{}".format(*job.seen.progress)
            case stage:
                return stage.value


async def _refusal(exchange: Exchange) -> UpstreamBroken:
    """An error reply of the child, as a break: 400 before it asked its model, 404 after."""
    detail = error_text(await exchange.reply())
    how = {400: Break.INVALID, 404: Break.REJECTED}.get(exchange.status, Break.CUT)
    return UpstreamBroken(how, detail)


def _never_fits(job: Job, limit: int) -> NeverFits:
    return NeverFits(
        prompt_tokens=job.fitted.prompt_tokens,
        max_tokens=job.fitted.max_tokens,
        limit=limit,
        param="messages" if job.request.is_chat else "prompt",
    )


def _smaller(prompt_tokens: int) -> int:
    """What to try when this many were too many with nothing else in the child."""
    return max(1, prompt_tokens * 3 // 4)


def _outcome_of(error: GuardError, job: Job) -> tuple[Outcome, str]:
    match error:
        case Unavailable(reason=reason):
            return (Outcome.CUT if job.answer.phase is Phase.CONTENT else Outcome.UNAVAILABLE), reason
        case UpstreamFailed(reason=reason):
            return Outcome.FAILED, reason
        case NeverFits():
            return Outcome.INVALID, "never_fits"
        case Quarantined() | PromptTooLong():
            return Outcome.INVALID, "quarantined"
        case _:
            return Outcome.INVALID, "child_refused"


def _cancelled_alone(job: Job) -> bool:
    """Whether an administrator ended it, and nobody else did: neither its client nor a stop."""
    task = asyncio.current_task()
    return job.cancelled and task is not None and task.uncancel() == 0


def _outcome_of_cancelling(http_request: web.Request) -> tuple[Outcome, str]:
    transport = http_request.transport
    gone = transport is None or transport.is_closing()
    return (Outcome.CLIENT_GONE, "closed") if gone else (Outcome.STOPPED, "stopped")
