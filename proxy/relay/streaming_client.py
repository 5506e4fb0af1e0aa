"""The client that streams: events are passed on as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.errors import GuardError
from proxy.job import Job
from proxy.relay.client import ClientGone
from proxy.relay.response_headers import response_headers
from proxy.stream import sse
from proxy.stream.answer import AnswerPhase
from proxy.stream.child_stream import StreamProgress
from proxy.stream.keepalive import KeepaliveClock, KeepaliveSign
from proxy.stream.rewrite import Rewriter


class StreamingClient:
    """Gets events as they come.

    Nothing is sent before the first content or the end of the grace, so that what fails early fails with
    its own status. From then on a side task breaks every silence; the stream itself pays nothing for it.
    Events without content are held back until some follow: an attempt may still be replaced by another.
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
        self._keeper: asyncio.Task[None] | None = None
        self._held: list[bytes] = []
        self._rewriter = self._fresh()

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"keep-alive {self._answer.id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_keeping()

    def begin(self) -> StreamProgress:
        self._held.clear()
        self._rewriter = self._fresh()
        return self._rewriter.seen

    async def feed(self, data: bytes) -> None:
        out = self._rewriter.feed(data)
        if self._answer.phase is not AnswerPhase.CONTENT:
            self._held.append(out)
            seen = self._rewriter.seen
            if not (seen.content or seen.done):
                return
            await self._open()
            self._answer.reach(AnswerPhase.CONTENT)
            out = b"".join(self._held)
            self._held.clear()
        if out:
            await self._write(out)

    def pass_through(self, data: bytes) -> bool:
        """Content that follows content goes out in the callback that read it: a task's turn sooner.

        As aiohttp would write it, but `write` is a coroutine.
        """
        if self._answer.phase is not AnswerPhase.CONTENT or _congested(self._http_request):
            return False
        transport = self._http_request.transport
        if transport is None or transport.is_closing():
            return False
        out = self._rewriter.pass_through(data)
        if out is None:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(out), out) if self._chunked else out)
        self._silence.event_sent(self._clock())
        return True

    def end_of_input(self) -> None:
        """Only [DONE] makes an answer complete, so nothing changes."""

    async def finish(self) -> web.StreamResponse:
        await self._stop_keeping()
        return await self._close()

    async def fail(self, error: GuardError) -> web.StreamResponse:
        await self._stop_keeping()
        if self._response is None:
            raise error
        await self._write(sse.event(error.body()) + sse.DONE + sse.END)
        return await self._close()

    def _fresh(self) -> Rewriter:
        return Rewriter(self._answer, include_usage=self._job.request.include_usage)

    async def _open(self) -> web.StreamResponse:
        """Headers, once: the stream and its keeper may both be first."""
        async with self._opening:
            if self._response is None:
                response = web.StreamResponse(headers=response_headers(self._job))
                response.content_type = "text/event-stream"
                response.headers["Cache-Control"] = "no-cache"
                response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
                self._chunked = self._http_request.version >= HttpVersion11
                if not self._chunked:
                    response.force_close()  # its end is the answer's; aiohttp would keep it, if asked to
                await response.prepare(self._http_request)
                self._response = response
                self._answer.reach(AnswerPhase.HEADERS)
            return self._response

    async def _write(self, data: bytes) -> None:
        response = self._response or await self._open()
        try:
            await response.write(data)
        except ConnectionError as error:
            raise ClientGone(response) from error
        self._silence.event_sent(self._clock())

    async def _close(self) -> web.StreamResponse:
        response = self._response or await self._open()
        try:
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone(response) from error
        return response

    async def _keep_alive(self) -> None:
        while True:
            now = self._clock()
            if now < self._silence.due:
                await asyncio.sleep(self._silence.due - now)
            elif not await self._break_silence(now):
                return

    async def _break_silence(self, now: float) -> bool:
        """Send a sign of life; False when there is nobody to send it to."""
        empty_event = self._silence.sign(now) is KeepaliveSign.EMPTY_EVENT
        sign = self._answer.empty_event() if empty_event else sse.comment(self._describe())
        response = await self._open()
        # Who does not read what it has needs no more. And only one may wait in aiohttp's drain(): both
        # would share a future, and cancelling the keeper would cancel the stream.
        if _congested(self._http_request):
            return True
        try:
            await response.write(sign)
        except ConnectionError:
            return False  # aiohttp cancels the handler, which is where a lost client is dealt with
        return True

    async def _stop_keeping(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        async with self._opening:  # never in the middle of the headers
            keeper.cancel()
        await asyncio.wait([keeper])
        if not keeper.cancelled():
            keeper.result()


def _congested(http_request: web.Request) -> bool:
    protocol = http_request.protocol
    return protocol is None or protocol.writing_paused
