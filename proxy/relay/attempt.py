"""One attempt: asks the child once, and passes its answer on as it comes.

relay.py catches `UpstreamBroken`, and recovery.py decides what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from proxy.cache.search_stalls import FollowedJob
from proxy.gate.slot import Slot
from proxy.job import Job, Stage
from proxy.relay.client import Client
from proxy.relay.disconnects import Disconnects
from proxy.stream import sse
from proxy.stream.answer import AnswerPhase
from proxy.stream.child_error import error_text
from proxy.stream.tool_calls import BodyCalls, CallLost, StreamCalls, ToolCalls
from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange
from supervisor.child.generation import Generation
from supervisor.lifecycle.silence_limits import WorkPhase


class Attempts:
    """Makes attempts, one or more for each request."""

    def __init__(self, upstream: Upstream, disconnects: Disconnects, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._disconnects = disconnects
        self._clock = clock

    async def make(
        self,
        job: Job,
        client: Client,
        generation: Generation,
        slot: Slot,
        followed: FollowedJob,
        *,
        others_may_join: bool,
    ) -> None:
        """Ask the child once. Raises UpstreamBroken unless the answer is complete, ClientGone.

        `others_may_join`: the first content ends the isolation of a slot that was granted alone.
        """
        job.stage, job.generation, job.seen = Stage.PREFILL, generation.number, client.begin()
        job.asked, job.tool_calls = None, _tool_calls(job)
        async with followed.attempt():
            job.answer.attempts += 1
            fitted = job.fitted
            body = job.request.upstream_body(
                prompt=fitted.prompt, max_tokens=fitted.max_tokens, stream=not job.unstreamed
            )
            with generation.busy() as work:

                def on_first_content() -> None:
                    job.content_sent(self._clock())
                    work.phase = WorkPhase.DECODE
                    followed.prompt_read()
                    if others_may_join:
                        slot.end_isolation()

                exchanged = self._upstream.post(
                    generation,
                    job.answer.path,
                    body,
                    via=job.via,
                    on_asked=lambda: job.was_asked(self._clock()),
                    on_end=self._disconnects.expect(job, slot, generation),
                )
                async with exchanged as exchange:
                    if exchange.status != HTTPStatus.OK:
                        raise await _refusal(exchange)
                    work.phase = WorkPhase.PREFILL
                    followed.answer_began()
                    job.give_up = exchange.give_up
                    try:
                        await _pass_on(job, client, exchange, slot, on_first_content)
                    except sse.Malformed as error:
                        raise UpstreamBroken(BreakKind.CUT, f"unreadable answer: {error}") from error
                    except CallLost:
                        raise UpstreamBroken(BreakKind.CALL_LOST, "a tool call could not be read") from None
                    finally:
                        job.give_up = None


def _tool_calls(job: Job) -> ToolCalls:
    def may_ask_again() -> bool:
        return job.request.is_chat and not job.asked_again and job.answer.phase is not AnswerPhase.CONTENT

    kind = BodyCalls if job.unstreamed else StreamCalls
    return kind(job.call_mends, is_chat=job.request.is_chat, may_ask_again=may_ask_again)


async def conclude(job: Job, client: Client) -> None:
    """End the answer of the last attempt, on whose tool call the child choked, with what was sent of it.

    Raises ClientGone.
    """
    seen, calls = job.seen, job.tool_calls
    assert seen is not None
    assert calls is not None
    counts = {
        "prompt_tokens": job.fitted.prompt_tokens,
        "completion_tokens": seen.events,
        "total_tokens": job.fitted.prompt_tokens + seen.events,
    }
    await client.feed(calls.conclusion(job.answer.identity(streamed=not job.unstreamed), counts))
    client.end_of_input()


async def _pass_on(
    job: Job, client: Client, exchange: Exchange, slot: Slot, on_first_content: Callable[[], None]
) -> None:
    seen, calls = job.seen, job.tool_calls
    assert seen is not None
    assert calls is not None

    def pass_through(data: bytes) -> bool:
        if not calls.is_plain(data) or not client.pass_through(data):
            return False
        slot.grew(seen.events)
        return True

    while data := await exchange.read(pass_through):
        if not (mended := calls.feed(data)):
            continue
        await client.feed(mended)
        slot.grew(seen.events)
        if seen.content and job.stage is not Stage.DECODE:
            on_first_content()
        if seen.done:
            exchange.over = True
            return
    if rest := calls.end():
        await client.feed(rest)
    client.end_of_input()
    if not seen.done:
        raise UpstreamBroken(BreakKind.CUT, "the answer ended without [DONE]", port=exchange.port)


async def _refusal(exchange: Exchange) -> UpstreamBroken:
    """An error reply of the child as a failure: 400 comes before it asked its model, 404 after."""
    detail = error_text(await exchange.reply())
    how = {400: BreakKind.INVALID, 404: BreakKind.REJECTED}.get(exchange.status, BreakKind.CUT)
    return UpstreamBroken(how, detail)
