"""The client of a streamed answer: events are passed on as they come, and silences are broken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.dialects.form import EventWriter
from proxy.errors import GatewayError
from proxy.job import Job
from proxy.relay.client import ClientGone, response_headers
from proxy.stream.answer import AnswerPhase
from proxy.stream.child_stream import StreamProgress
from proxy.stream.keepalive import KeepaliveClock

log = logging.getLogger("mlxguard.relay")


class StreamingClient:
    """Gets events as they come.

    Nothing is sent before the first content or the end of the grace period, so that an early failure has its
    own status. From then on a task of its own breaks every silence, at no cost to the stream. Events without
    content are withheld until content follows, as another attempt may still replace this one.

    Args:
        hold_grace_s: seconds until the first sign of life is sent.
        keepalive_s: the longest silence after it, in seconds.
        describe: the text of a keep-alive comment.
    """

    def __init__(
        self,
        http_request: web.Request,
        job: Job,
        *,
        hold_grace_s: float,
        keepalive_s: float,
        clock: Callable[[], float],
        describe: Callable[[], str],
    ) -> None:
        self._http_request = http_request
        self._job = job
        self._answer = job.answer
        self._clock = clock
        self._describe = describe
        self._silence = KeepaliveClock.begin(clock(), grace_s=hold_grace_s, keepalive_s=keepalive_s)
        self._response: web.StreamResponse | None = None
        self._chunked = False
        self._opening = asyncio.Lock()
        self._unsent = b""  # the opening of the stream, between the headers and what is first sent after them
        self._withheld: list[bytes] = []
        self._content_ready = False
        self._writer: EventWriter = job.form.writer()
        self._keeper: asyncio.Task[None] | None = asyncio.create_task(
            self._keep_alive(), name=f"keep-alive {self._answer.id}"
        )

    def begin(self) -> StreamProgress:
        self._withheld.clear()
        self._writer = self._job.form.writer()
        return self._writer.seen

    async def feed(self, data: bytes) -> None:
        out = self._writer.feed(data)
        if self._answer.phase is not AnswerPhase.CONTENT:
            self._withheld.append(out)
            seen = self._writer.seen
            if not (seen.content or seen.done):
                return
            self._content_ready = True
            await self._open()
            self._answer.reach(AnswerPhase.CONTENT)
            out = b"".join(self._withheld)
            self._withheld.clear()
        if out:
            await self._write(out)

    def pass_through(self, data: bytes) -> bool:
        """Send content that follows content in the callback that read it, a turn of the loop sooner.

        The bytes are those that aiohttp would write, but its `write` is a coroutine.
        """
        if self._answer.phase is not AnswerPhase.CONTENT or _congested(self._http_request):
            return False
        transport = self._http_request.transport
        if transport is None or transport.is_closing():
            return False
        out = self._writer.pass_through(data)
        if out is None:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(out), out) if self._chunked else out)
        self._silence.event_sent(self._clock())
        return True

    def end_of_input(self) -> None:
        """Only [DONE] makes an answer complete, so nothing changes."""

    async def finish(self) -> web.StreamResponse:
        await self.aclose()
        return await self._close()

    async def fail(self, error: GatewayError) -> web.StreamResponse:
        await self.aclose()
        if self._response is None:
            raise error
        await self._write(self._job.form.failure(error))
        return await self._close()

    async def _open(self) -> web.StreamResponse:
        """Send the headers, once: the stream and the keep-alive task may both come first."""
        async with self._opening:
            if self._response is None:
                response = web.StreamResponse(headers=response_headers(self._job))
                response.content_type = "text/event-stream"
                response.headers["Cache-Control"] = "no-cache"
                response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
                self._chunked = self._http_request.version >= HttpVersion11
                if not self._chunked:
                    response.force_close()  # its end ends the answer; aiohttp would keep it open on request
                await response.prepare(self._http_request)
                self._unsent = self._job.form.opening()
                self._response = response
                self._answer.reach(AnswerPhase.HEADERS)
            return self._response

    async def _write(self, data: bytes) -> None:
        response = self._response or await self._open()
        try:
            await response.write(self._opened(data))
        except ConnectionError as error:
            raise ClientGone(response) from error
        self._silence.event_sent(self._clock())

    def _opened(self, data: bytes) -> bytes:
        """What is sent for `data`: the first time, the opening precedes it."""
        opening, self._unsent = self._unsent, b""
        return opening + data

    async def _close(self) -> web.StreamResponse:
        """End the response. Everything was sent, so a client that has closed its connection lacks nothing."""
        response = self._response or await self._open()
        with suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _keep_alive(self) -> None:
        while True:
            now = self._clock()
            if now < self._silence.due:
                await asyncio.sleep(self._silence.due - now)
                continue
            try:
                if not await self._break_silence(now):
                    return
            except Exception:  # the next silence is to be broken all the same
                log.exception("keep_alive_failed")
                self._silence.event_sent(now)

    async def _break_silence(self, now: float) -> bool:
        """Send a sign of life; False if the client has disconnected."""
        needs_event = self._silence.needs_event(now)
        response = await self._open()
        if self._content_ready and self._answer.phase is not AnswerPhase.CONTENT:
            return True  # the first content is about to be sent, and events of a protocol may be numbered
        # A client that does not read what it was sent needs no more. And only one task may wait in aiohttp's
        # drain(): two would share a future, and cancelling the keep-alive task would cancel the stream.
        if _congested(self._http_request):
            return True
        sign = self._job.form.keepalive(self._describe(), empty_event=needs_event)
        try:
            await response.write(self._opened(sign))
        except ConnectionError:
            return False  # aiohttp cancels the handler, where a disconnect is dealt with
        return True

    async def aclose(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        async with self._opening:  # never in the middle of the headers
            keeper.cancel()
        await asyncio.wait([keeper])
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            log.error("keep_alive_failed", exc_info=error)  # the answer itself is not harmed


def _congested(http_request: web.Request) -> bool:
    protocol = http_request.protocol
    return protocol is None or protocol.writing_paused
