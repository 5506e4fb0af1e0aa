"""The client to the child: how it is reached, asked, and left before it has answered.

The child is http.server: HTTP/1.0, one connection per request, the body ends with the connection
(server.py, APIHandler). So an end proves nothing, and a connection is never used twice. wire.py speaks it;
what it answers is an `Exchange`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.exchange import LAST_WORDS_S, Exchange, GenerationLike, OnEnd, describe
from proxy.upstream.http10 import Http10Connection, connected
from supervisor.aio import Tasks
from supervisor.child.command import HOST

log = logging.getLogger("mlxguard.upstream")

#: socketserver's listen backlog is 5: more at once are dropped by the kernel, and a dropped SYN is only
#: sent again after a second. So: few at a time, give up soon, ask again soon.
_CONNECTS_AT_ONCE = 4
_CONNECT_TIMEOUT_S = 0.5
_CONNECT_RETRIES_S = 5.0


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(OSError),
        stop=stop_after_delay(_CONNECT_RETRIES_S),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )


class Upstream:
    """Asks the child. To be stopped at the end, for those who left before they were answered."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_CONNECTS_AT_ONCE)
        self._tasks = Tasks()

    async def stop(self) -> None:
        self._tasks.cancel()
        await self._tasks.finish()

    @asynccontextmanager
    async def post(
        self,
        generation: GenerationLike,
        path: str,
        body: bytes,
        *,
        via: str = "",
        on_asked: Callable[[], None] = lambda: None,
        on_end: OnEnd = lambda _: None,
    ) -> AsyncIterator[Exchange]:
        """Ask the child; the exchange is readable within the block and cut at its end, also by cancelling.

        `via`: the field of this name, of a request that was received from somebody.

        Args:
            on_asked: called when the child is reached; what it does before that is not this request's doing.
            on_end: called once; when the block is left before the child has begun to answer, later than that.

        Raises:
            UpstreamBroken: it could not be asked, or closed or died before it began to answer.
        """
        fields = f"Via: {via}\r\n" if via else ""
        wire = await self._send(generation, path, body, fields, on_asked=on_asked, on_end=on_end)
        exchange = Exchange(wire, generation)
        on_death = _ignoring_result(exchange.on_death)
        generation.died.add_done_callback(on_death)
        try:
            yield exchange
        finally:
            generation.died.remove_done_callback(on_death)
            on_end(exchange.close())

    async def _send(
        self,
        generation: GenerationLike,
        path: str,
        body: bytes,
        fields: str,
        *,
        on_asked: Callable[[], None],
        on_end: OnEnd,
    ) -> Http10Connection:
        wire, asked = None, False
        try:
            async with _until(generation.died, grace_s=LAST_WORDS_S):
                wire = await self._connected(generation)
                on_asked()
                await wire.ask(path, body, fields)
                asked = True
                await wire.answered()
                return wire
        except asyncio.CancelledError:
            self._leave_early(wire, generation, on_end, asked=asked)
            raise
        except OSError as error:
            if wire is not None:
                wire.abort()
            on_end(None)
            how = BreakKind.NOT_CONNECTED if wire is None else BreakKind.CUT
            raise UpstreamBroken(how, describe(error)) from error

    async def _connected(self, generation: GenerationLike) -> Http10Connection:
        """Connect within the child's small backlog. Only this is retried: nothing was asked yet."""
        async with self._turns:
            try:
                return await connected(HOST, generation.port, _CONNECT_TIMEOUT_S)
            except OSError:
                return await _patiently()(connected, HOST, generation.port, _CONNECT_TIMEOUT_S)

    def _leave_early(
        self, wire: Http10Connection | None, generation: GenerationLike, on_end: OnEnd, *, asked: bool
    ) -> None:
        """Leave a child that has not begun to answer.

        Not before it has: one that finds its client gone when it writes the headers forgets to mark the
        request, and generates all of max_tokens for nobody (server.py, handle_completion; measured). One that
        was not asked whole never begins.
        """
        if wire is not None and asked and not generation.died.done():
            self._tasks.start(self._leave_after_headers(wire, generation, on_end), "leave")
            return
        if wire is not None:
            wire.abort()
        on_end(None)

    async def _leave_after_headers(
        self, wire: Http10Connection, generation: GenerationLike, on_end: OnEnd
    ) -> None:
        cut = None
        try:
            async with _until(generation.died, grace_s=0.0):
                await wire.answered()
            cut = Exchange(wire, generation).close()
        except OSError as error:
            log.debug("left_unanswered", extra={"error": describe(error)})
        finally:
            wire.abort()
            on_end(cut)


@asynccontextmanager
async def _until(end: asyncio.Future[Any], *, grace_s: float) -> AsyncIterator[None]:
    """Cancels the block and raises TimeoutError `grace_s` seconds after `end` is done."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        on_end = _ignoring_result(lambda: scope.reschedule(loop.time() + grace_s))
        end.add_done_callback(on_end)
        try:
            yield
        finally:
            end.remove_done_callback(on_end)


def _ignoring_result(callback: Any) -> Any:
    return lambda _: callback()
