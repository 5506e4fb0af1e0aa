"""One request against the child, from its place in the queue to the end of its answer.

    enter the gate -> granted -> child ready -> ask -> relay ... [DONE]
         ^                                       |
         +-- replay, if the child died and the client has seen no content

Asking once is attempts.py; what follows when that broke, breaks.py. A replay goes back to the gate with its
old arrival, in one step with giving its grant up; so after a restart requests run again in the order in
which they came. A suspect of the death (proxy/relay/quarantine.py) waits for the innocents, then has the
child for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from proxy.cache.search_stalls import BLIND, Blind
from proxy.errors import (
    Cancelled,
    GuardError,
    NeverFits,
    PromptTooLong,
    Quarantined,
    RestartingFailed,
    Unavailable,
    UpstreamFailed,
)
from proxy.gate.gate import Gate
from proxy.gate.slot import NoRoomEver, Slot
from proxy.job import Job, Outcome, Stage
from proxy.relay.attempt import Attempts
from proxy.relay.blame import Isolation
from proxy.relay.client import Client, ClientGone, WaitingClient
from proxy.relay.disconnects import Disconnects
from proxy.relay.recovery import ConvictsLike, JudgeLike, Recovery, never_fits
from proxy.relay.streaming_client import StreamingClient
from proxy.stream.answer import AnswerPhase
from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import GenerationLike
from supervisor.child.generation import NotReady
from supervisor.lifecycle.causes import NATURES
from supervisor.lifecycle.state_machine import State

__all__ = ["Job", "Outcome", "Relay", "RelayOptions", "Stage"]


class SupervisorLike(JudgeLike, Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def ready(self, timeout_s: float) -> Awaitable[GenerationLike]: ...


class QuarantineLike(ConvictsLike, Protocol):
    """What is used of proxy.relay.quarantine.Quarantine."""

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
        inquest: QuarantineLike,
        *,
        leavings: Disconnects,
        foresight: Blind = BLIND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._foresight = foresight
        self._gate = gate
        self._options = options
        self._inquest = inquest
        self._leavings = leavings
        self._clock = clock
        self._attempts = Attempts(upstream, leavings=leavings, foresight=foresight, clock=clock)
        self._breaks = Recovery(supervisor, inquest, max_replays=options.max_replays)

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
        reading = await self._foresight.foresee(job)
        ticket = self._gate.ticket(
            job.answer.id,
            job.client,
            arrived=job.arrived,
            deadline=job.deadline,
            prompt=job.fitted.prompt_tokens,
            max_tokens=job.fitted.max_tokens,
            session=job.request.session(),
            cached=reading.cached,
            segments=reading.segments,
            alone=self._alone(job),
        )
        with self._gate.enter(ticket, on_rise=job.saw) as place:
            while True:
                await self._granted(job, place)
                generation = await self._ready(job)
                # It may have become a suspect, or a convict, while it waited: by a twin of its.
                solitude = self._inquest.solitude(job)
                if place.alone or not self._alone(job):
                    join = place.alone and solitude is not Isolation.WHOLE
                    try:
                        return await self._attempts.make(job, client, generation, place, join=join)
                    except UpstreamBroken as broken:
                        await self._breaks.settle(job, generation, broken)
                await self._leavings.gone(job)
                place.again(alone=self._alone(job))

    def _alone(self, job: Job) -> bool:
        """Whether it may run only when nothing else does. Raises PromptTooLong or Quarantined."""
        return self._inquest.solitude(job) is not Isolation.NONE or job.retried

    async def _granted(self, job: Job, place: Slot) -> None:
        job.stage = Stage.WAITING
        since = self._clock()
        try:
            await place.granted()
        except NoRoomEver as error:
            raise never_fits(job, error.limit) from error
        finally:
            job.queue_s += self._clock() - since
        job.predicted_bytes = place.reserved

    async def _ready(self, job: Job) -> GenerationLike:
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

    def _client(self, http_request: web.Request, job: Job) -> Client:
        if not job.request.stream:
            return WaitingClient(http_request, job)
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


def _outcome_of(error: GuardError, job: Job) -> tuple[Outcome, str]:
    match error:
        case Unavailable(reason=reason):
            return (Outcome.CUT if job.answer.phase is AnswerPhase.CONTENT else Outcome.UNAVAILABLE), reason
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
