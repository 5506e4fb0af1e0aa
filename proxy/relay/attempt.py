"""One attempt: the child is asked once, and what it answers is passed on as it comes.

`UpstreamBroken` leaves it for relay.py, which asks breaks.py what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from proxy.cache.search_stalls import Blind
from proxy.gate.slot import Slot
from proxy.job import Job, Stage
from proxy.relay.client import Client
from proxy.relay.disconnects import Disconnects
from proxy.stream import sse
from proxy.stream.child_error import error_text
from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange, GenerationLike
from supervisor.child.generation import ChildWork
from supervisor.lifecycle import silence_limits


class Attempts:
    """Makes them, one or more for each request."""

    def __init__(
        self, upstream: Upstream, *, leavings: Disconnects, foresight: Blind, clock: Callable[[], float]
    ) -> None:
        self._upstream = upstream
        self._leavings = leavings
        self._foresight = foresight
        self._clock = clock

    async def make(
        self, job: Job, client: Client, generation: GenerationLike, place: Slot, *, join: bool
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
                work.phase = silence_limits.WorkPhase.PREFILL
                self._foresight.answering(job)
                job.give_up = exchange.give_up
                try:
                    await self._pass_on(job, client, exchange, place, work, join=join)
                except sse.Malformed as error:
                    raise UpstreamBroken(BreakKind.CUT, f"unreadable answer: {error}") from error
                finally:
                    job.give_up = None

    async def _pass_on(
        self, job: Job, client: Client, exchange: Exchange, place: Slot, work: ChildWork, *, join: bool
    ) -> None:
        seen = job.seen
        assert seen is not None

        def pass_through(data: bytes) -> bool:
            if not client.pass_through(data):
                return False
            place.grew(seen.events)
            return True

        while data := await exchange.read(pass_through):
            await client.feed(data)
            place.grew(seen.events)
            if seen.content and job.stage is not Stage.DECODE:
                job.content_sent(self._clock())
                work.phase = silence_limits.WorkPhase.DECODE
                self._foresight.read(job)
                if join:
                    place.join()
            if seen.done:
                exchange.over = True
                return
        client.end_of_input()
        if not seen.done:
            raise UpstreamBroken(BreakKind.CUT, "the answer ended without [DONE]")


async def _refusal(exchange: Exchange) -> UpstreamBroken:
    """An error reply of the child, as a break: 400 before it asked its model, 404 after."""
    detail = error_text(await exchange.reply())
    how = {400: BreakKind.INVALID, 404: BreakKind.REJECTED}.get(exchange.status, BreakKind.CUT)
    return UpstreamBroken(how, detail)
