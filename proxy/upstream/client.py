"""Connects to the child, asks it, and disconnects from it, also before it has answered.

The child is http.server (server.py, APIHandler). http10.py speaks its dialect; its answer is an `Exchange`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.exchange import LAST_WORDS_S, Exchange, OnEnd, describe
from proxy.upstream.http10 import Http10Connection, connected
from supervisor.aio import Tasks
from supervisor.child.command import HOST
from supervisor.child.generation import Generation
from supervisor.machine.system import is_own_shortage

log = logging.getLogger("mlxguard.upstream")

#: Connections are made this many at a time: socketserver's listen backlog is 5, and the kernel drops what is
#: above.
_CONNECTS_AT_ONCE = 4
#: A connection is given up after this, since a dropped SYN is sent again only after a second.
_CONNECT_TIMEOUT_S = 0.5
#: Connecting is retried for this long, then the attempt has failed.
_CONNECT_RETRIES_S = 5.0


class Upstream:
    """Asks the child. `stop` ends the requests that still wait to be dropped."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_CONNECTS_AT_ONCE)
        self._tasks = Tasks()

    async def stop(self) -> None:
        self._tasks.cancel()
        await self._tasks.finish()

    @asynccontextmanager
    async def post(
        self,
        generation: Generation,
        path: str,
        body: bytes,
        *,
        via: str = "",
        on_asked: Callable[[], None] = lambda: None,
        on_end: OnEnd = lambda _: None,
    ) -> AsyncIterator[Exchange]:
        """Ask the child; the exchange is readable within the block, and closed at its end.

        Args:
            via: the `Via` field of a request that came from a client.
            on_asked: called when the child is reached; what it does before that is not this request's doing.
            on_end: called once, at the end of the block; later if that comes before the child begins to
                answer.

        Raises:
            UpstreamBroken: the child could not be asked, or closed or died before it began to answer.
        """
        fields = f"Via: {via}\r\n" if via else ""
        connection = await self._send(generation, path, body, fields, on_asked=on_asked, on_end=on_end)
        exchange = Exchange(connection, generation)
        generation.died.add_done_callback(exchange.on_death)
        try:
            yield exchange
        finally:
            generation.died.remove_done_callback(exchange.on_death)
            on_end(exchange.close())

    async def _send(
        self,
        generation: Generation,
        path: str,
        body: bytes,
        fields: str,
        *,
        on_asked: Callable[[], None],
        on_end: OnEnd,
    ) -> Http10Connection:
        connection, asked = None, False
        try:
            async with _until(generation.died, grace_s=LAST_WORDS_S):
                connection = await self._connected(generation)
                on_asked()
                generation.posts += 1
                await connection.ask(path, body, fields)
                asked = True
                await connection.answered()
                return connection
        except asyncio.CancelledError:
            self._disconnect_early(connection, generation, on_end, asked=asked)
            raise
        except OSError as error:
            if connection is not None:
                connection.abort()
            on_end(None)
            how = BreakKind.CUT
            if connection is None:
                how = BreakKind.NOT_ASKED if is_own_shortage(error) else BreakKind.NOT_CONNECTED
            port = None if connection is None else connection.port
            raise UpstreamBroken(how, describe(error), port=port) from error

    async def _connected(self, generation: Generation) -> Http10Connection:
        """Connect within the child's small backlog. Only this is retried, since nothing was asked yet."""
        async with self._turns:
            try:
                return await connected(HOST, generation.port, _CONNECT_TIMEOUT_S)
            except OSError:
                retrying = AsyncRetrying(
                    retry=retry_if_exception_type(OSError),
                    stop=stop_after_delay(_CONNECT_RETRIES_S),
                    wait=wait_random_exponential(multiplier=0.02, max=0.5),
                    reraise=True,
                )
                return await retrying(connected, HOST, generation.port, _CONNECT_TIMEOUT_S)

    def _disconnect_early(
        self, connection: Http10Connection | None, generation: Generation, on_end: OnEnd, *, asked: bool
    ) -> None:
        """Disconnect from a child that has not begun to answer, as soon as it does.

        A child that finds its client gone when it writes the headers forgets to mark the request, and
        generates all of max_tokens for nothing (server.py, handle_completion; measured). It never begins on a
        request that was not sent as a whole.
        """
        if connection is not None and asked and not generation.died.done():
            self._tasks.start(self._disconnect_after_headers(connection, generation, on_end), "disconnect")
            return
        if connection is not None:
            connection.abort()
        on_end(None)

    async def _disconnect_after_headers(
        self, connection: Http10Connection, generation: Generation, on_end: OnEnd
    ) -> None:
        aborted = None
        try:
            async with _until(generation.died, grace_s=0.0):
                await connection.answered()
            aborted = Exchange(connection, generation).close()
        except OSError as error:
            log.debug("disconnected_unanswered", extra={"error": describe(error)})
        finally:
            connection.abort()
            on_end(aborted)


@asynccontextmanager
async def _until(end: asyncio.Future[Any], *, grace_s: float) -> AsyncIterator[None]:
    """Cancel the block and raise TimeoutError `grace_s` seconds after `end` is done."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:

        def on_end(_: object) -> None:
            scope.reschedule(loop.time() + grace_s)

        end.add_done_callback(on_end)
        try:
            yield
        finally:
            end.remove_done_callback(on_end)
