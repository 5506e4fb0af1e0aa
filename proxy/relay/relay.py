"""One request at the child, from its slot at the gate to the end of its answer.

Asking the child once is attempt.py; what follows when that fails, recovery.py. A suspect of a death
(proxy/relay/quarantine.py) waits until nothing else runs, then has the child to itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import aclosing

from aiohttp import web

from proxy import errors
from proxy.cache.search_stalls import FollowedJob, SearchStalls
from proxy.config.settings import QueueSettings
from proxy.errors import GatewayError
from proxy.gate.gate import Gate
from proxy.gate.slot import NoRoomEver, Slot
from proxy.job import Job, Outcome, Stage
from proxy.relay.attempt import Attempts, conclude
from proxy.relay.blame import Isolation
from proxy.relay.client import Client, ClientGone, WaitingClient
from proxy.relay.disconnects import Disconnects
from proxy.relay.held_client import HeldClient
from proxy.relay.quarantine import Quarantine
from proxy.relay.recovery import Recovery
from proxy.relay.streaming_client import StreamingClient
from proxy.stream.answer import AnswerPhase
from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from supervisor.child.generation import Generation, NotReady
from supervisor.lifecycle.causes import CAUSE_INFO
from supervisor.lifecycle.state_machine import State
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.relay")


class Relay:
    """Serves requests that were parsed and fitted."""

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        upstream: Upstream,
        settings: QueueSettings,
        quarantine: Quarantine,
        *,
        disconnects: Disconnects,
        search_stalls: SearchStalls,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._settings = settings
        self._quarantine = quarantine
        self._disconnects = disconnects
        self._search_stalls = search_stalls
        self._clock = clock
        self._attempts = Attempts(upstream, disconnects, clock)
        self._recovery = Recovery(supervisor, quarantine)

    async def serve(self, http_request: web.Request, job: Job) -> web.StreamResponse:
        """The whole answer; `job` has its outcome afterwards, in every case.

        Raises:
            GatewayError: nothing was sent, and this is the answer.
            asyncio.CancelledError: the client disconnected, or the proxy stops.
        """
        with self._search_stalls.follow(job) as followed:
            try:
                async with aclosing(self._client(http_request, job)) as client:
                    return await self._answer(job, client, followed)
            except ClientGone as gone:
                job.outcome, job.reason = Outcome.CLIENT_GONE, "reset"
                return gone.response
            except asyncio.CancelledError:
                if not _was_sent_whole(job):
                    job.outcome, job.reason = _outcome_of_cancelling(http_request)
                elif job.outcome is not Outcome.OK:
                    self._completed(job)
                raise
            finally:
                job.end(self._clock())

    async def _answer(self, job: Job, client: Client, followed: FollowedJob) -> web.StreamResponse:
        try:
            await self._complete(job, client, followed)
            if isinstance(client, HeldClient):
                await self._until_it_fits(job, client, followed)
            self._completed(job)
        except GatewayError as error:
            job.outcome, job.reason = _outcome_of(error, job)
            return await client.fail(error)
        except asyncio.CancelledError:
            if not _cancelled_by_administrator(job):
                raise
            job.outcome, job.reason = Outcome.CANCELLED, "cancelled"
            return await client.fail(errors.Cancelled())
        except ClientGone:
            raise
        except Exception:  # a bug, or a fault of the system: a stream that has begun ends by the contract too
            log.exception("internal_error")
            job.outcome, job.reason = Outcome.FAILED, "internal_error"
            return await client.fail(errors.InternalError())
        return await client.finish()

    def _completed(self, job: Job) -> None:
        job.outcome = Outcome.OK
        self._gate.answered(job.client, job.completion_tokens)
        self._quarantine.completed(job)

    async def _until_it_fits(self, job: Job, client: HeldClient, followed: FollowedJob) -> None:
        """Ask again, with what was wrong, until the answer has the form that its request demands.

        Raises UnfitAnswer when it never does.
        """
        check = job.output_check
        assert check is not None
        while (examined := await check.examine(choice := client.choice())).problem is not None:
            job.request, job.fitted = await check.corrected(job.request, choice, examined.problem)
            log.info("answer_unfit", extra={"demanded_by": check.wanted.param, "answers": check.unfit})
            await followed.ask_again()
            await self._complete(job, client, followed)
        client.accept(examined.content)

    async def _complete(self, job: Job, client: Client, followed: FollowedJob) -> None:
        """Run rounds until an attempt is complete. Raises GatewayError when none will be, ClientGone."""
        prediction = await followed.predict()
        ticket = self._gate.ticket(
            job.answer.id,
            job.client,
            arrived=job.arrived,
            deadline=job.deadline,
            prompt=job.fitted.prompt_tokens,
            max_tokens=job.fitted.max_tokens,
            session=job.request.session(),
            cached=prediction.cached if prediction else 0,
            segments=prediction.segments if prediction else 0,
            alone=self._isolation(job) is not Isolation.NONE,
        )
        with self._gate.enter(ticket, on_rise=job.memory_rose) as slot:
            while True:
                await self._granted(job, slot)
                generation = await self._ready(job)
                # An identical request may have made it a suspect, or had it refused, while it waited.
                isolation = self._isolation(job)
                if slot.alone or isolation is Isolation.NONE:
                    others_may_join = slot.alone and isolation is not Isolation.FULL
                    try:
                        return await self._attempts.make(
                            job, client, generation, slot, followed, others_may_join=others_may_join
                        )
                    except UpstreamBroken as broken:
                        asked_before = job.asked_again
                        if not await self._recovery.settle(job, generation, broken):
                            return await conclude(job, client)
                        if job.asked_again and not asked_before:
                            await followed.ask_again()
                    await self._disconnects.dropped(job)
                    isolation = self._isolation(job)
                slot.requeue(alone=isolation is not Isolation.NONE)

    def _isolation(self, job: Job) -> Isolation:
        """How isolated its next run must be. Raises PromptTooLong or Quarantined."""
        isolation = self._quarantine.isolation(job)
        retried_alone = job.retried and isolation is Isolation.NONE
        return Isolation.UNTIL_FIRST_TOKEN if retried_alone else isolation

    async def _granted(self, job: Job, slot: Slot) -> None:
        job.stage = Stage.WAITING
        since = self._clock()
        try:
            await slot.granted()
        except NoRoomEver as error:
            raise job.too_long(error.limit, errors.NeverFits) from error
        finally:
            job.queue_s += self._clock() - since
        job.predicted_bytes = slot.reserved

    async def _ready(self, job: Job) -> Generation:
        """Wait for the child with the slot in hand, so that waiting for a restart keeps order and slots."""
        job.stage = Stage.STARTING
        try:
            return await self._supervisor.ready(max(0.0, job.deadline - self._clock()))
        except NotReady as error:
            if error.snapshot.state is State.FAILED:
                cause = error.snapshot.cause
                why = CAUSE_INFO[cause].explanation if cause else ""
                raise errors.RestartFailed("restart_failed", why) from error
            raise errors.Unavailable("not_ready") from error

    def _client(self, http_request: web.Request, job: Job) -> Client:
        client = self._unheld_client(http_request, job)
        return client if job.output_check is None else HeldClient(client, job)

    def _unheld_client(self, http_request: web.Request, job: Job) -> Client:
        if not job.request.stream:
            return WaitingClient(http_request, job)
        return StreamingClient(
            http_request,
            job,
            hold_grace_s=self._settings.headers_after_s,
            keepalive_s=self._settings.keepalive_s,
            clock=self._clock,
            describe=lambda: self._describe(job),
        )

    def _describe(self, job: Job) -> str:
        """The text of a keep-alive comment."""
        match job.stage:
            case Stage.WAITING:
                expected = self._gate.expected_wait_s(job.answer.id)
                hint = "" if expected is None else f", next in about {math.ceil(expected)} s"
                return f"queued position={self._gate.position(job.answer.id) or 0}{hint}"
            case Stage.STARTING:
                return "restarting" if job.answer.attempts else "starting"
            case Stage.PREFILL if job.seen and job.seen.progress:
                return "prefill {}/{}".format(*job.seen.progress)
            case stage:
                return stage.value


def _outcome_of(error: GatewayError, job: Job) -> tuple[Outcome, str]:
    match error:
        case errors.Unavailable(reason=reason):
            return (Outcome.CUT if job.answer.phase is AnswerPhase.CONTENT else Outcome.UNAVAILABLE), reason
        case errors.UpstreamFailed(reason=reason):
            return Outcome.FAILED, reason
        case errors.NeverFits():
            return Outcome.INVALID, "never_fits"
        case errors.UnfitAnswer():
            return Outcome.INVALID, "answer_unfit"
        case errors.Quarantined() | errors.PromptTooLong():
            return Outcome.INVALID, "quarantined"
        case _:
            return Outcome.INVALID, "child_refused"


def _was_sent_whole(job: Job) -> bool:
    """Whether a stream has had its last event. Some clients (Codex) close the connection as soon as they read
    it, which cancels the handler before it has ended the response."""
    return job.request.stream and job.seen is not None and job.seen.done


def _cancelled_by_administrator(job: Job) -> bool:
    """Whether only an administrator cancelled it: neither its client's disconnect nor a stop did."""
    task = asyncio.current_task()
    return job.cancelled and task is not None and task.uncancel() == 0


def _outcome_of_cancelling(http_request: web.Request) -> tuple[Outcome, str]:
    transport = http_request.transport
    gone = transport is None or transport.is_closing()
    return (Outcome.CLIENT_GONE, "closed") if gone else (Outcome.STOPPED, "stopped")
