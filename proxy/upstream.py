"""The HTTP client to the child. What aiohttp raises is translated once, here.

The child is http.server: HTTP/1.0, one connection per request, the body ends with the connection
(server.py, APIHandler). So an end proves nothing, and a connection is never used twice.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from proxy.core.answer import Break
from supervisor.generation import Work
from supervisor.process import Telemetry
from supervisor.tasks import Tasks

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

log = logging.getLogger("mlxguard.upstream")

#: socketserver's listen backlog is 5: more at once are dropped by the kernel, and a dropped SYN is only
#: sent again after a second. So: few at a time, give up soon, ask again soon.
_CONNECTS_AT_ONCE = 4
_CONNECT_TIMEOUT_S = 0.5
_CONNECT_RETRIES_S = 5.0

#: Bytes per stream that are read ahead of a slow client; aiohttp stops reading at twice as many.
_READ_AHEAD_BYTES = 64 * 1024

#: aiohttp sends larger bytes in one piece, which blocks the loop; from a file it sends pieces.
_LARGE_BODY_BYTES = 512 * 1024

_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

#: A dead child's last words are already on their way; what has not come by then never will.
_LAST_WORDS_S = 0.2

_REPLY_BYTES = 64 * 1024

#: Linger for zero seconds: closing resets the connection.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Generation(Protocol):
    """One life of the child, as supervisor.runner gives it out."""

    number: int
    base_url: str
    died: asyncio.Future[Any]

    def busy(self) -> AbstractContextManager[Work]: ...

    def progress(self) -> None: ...

    def telemetry(self) -> Telemetry | None: ...

    def giving_up(self, port: int) -> asyncio.Future[None]: ...


class UpstreamBroken(Exception):
    """No complete answer. `how` says what came, `detail` what the child said; neither says why."""

    def __init__(self, how: Break, detail: str) -> None:
        super().__init__(detail)
        self.how = how
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of a request in whose middle the child was left.

    Attributes:
        port: ours, of the connection that was reset.
        step_s: the longest time between two signs of life of it.
    """

    port: int
    step_s: float


#: Told when the child is done with a request (None), or that it was left in the middle of it.
OnEnd = Callable[[Cut | None], None]


@dataclass(slots=True)
class _Asked:
    """Whether there is a connection, after which the child will have the request."""

    connected: bool = False


class _Connector(aiohttp.TCPConnector):
    """Connects within the child's small backlog. Only connecting is retried: nothing was asked yet."""

    def __init__(self) -> None:
        super().__init__(force_close=True, limit=0, use_dns_cache=False)
        self._turns = asyncio.Semaphore(_CONNECTS_AT_ONCE)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        async with self._turns:
            try:
                return await super().connect(req, traces, timeout)
            except _NOT_CONNECTED:
                return await _patiently()(super().connect, req, traces, timeout)


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(_NOT_CONNECTED),
        stop=stop_after_delay(_CONNECT_RETRIES_S),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )


class Exchange:
    """One request and what the child answers, readable piece by piece.

    Attributes:
        over: the child is done with it: the answer ended, or whoever reads it knows that nothing will follow.
    """

    def __init__(self, response: aiohttp.ClientResponse, generation: Generation) -> None:
        self._response = response
        self._generation = generation
        self._reading = False
        self._given_up = False
        self._port = _own_port(response)
        self._step_s, self._heard = 0.0, time.monotonic()
        self.over = self._port is None

    @property
    def status(self) -> int:
        return self._response.status

    async def read(self) -> bytes:
        """All that has arrived, at least one byte; b"" at the end, which may also have been a reset.

        Raises:
            UpstreamBroken: the end came before a length that was told, the child is dead and silent, or it
                was given up.
        """
        if self._generation.died.done():
            return await self._last_words()
        self._reading = True
        try:
            self._raise_if_given_up()
            data = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            self._raise_if_given_up()
            raise UpstreamBroken(Break.CUT, _describe(error)) from error
        finally:
            self._reading = False
        self._generation.progress()
        now = time.monotonic()
        self._step_s, self._heard = max(self._step_s, now - self._heard), now
        self.over = self.over or not data
        return data

    async def reply(self) -> bytes:
        """The body of an error reply, as much of it as is worth reading."""
        pieces = bytearray()
        while len(pieces) < _REPLY_BYTES and (data := await self.read()):
            pieces += data
        return bytes(pieces)

    def on_death(self) -> None:
        """The generation died: a read that waits must not wait for ever on a stopped or wedged process."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._end_reading)

    def give_up(self) -> None:
        """End it for want of memory: `read` raises, also one that waits."""
        self._given_up = True
        self._end_reading()

    def _raise_if_given_up(self) -> None:
        if self._given_up:
            raise UpstreamBroken(Break.ENDED, "ended before memory ran out")

    def _end_reading(self) -> None:
        if self._reading:
            self._response.content.set_exception(ConnectionAbortedError("reading was ended"))

    async def _last_words(self) -> bytes:
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise UpstreamBroken(Break.CUT, _describe(error)) from error

    def close(self) -> Cut | None:
        """Leave it, at whatever point; a `Cut` if the child may still be at work on it.

        A child that is still writing is told by a reset: its next write fails. After an orderly close only
        the one after next does, and in prefill that is a whole step more (measured with the real server).
        """
        connection = self._response.connection
        if connection is not None and (transport := connection.transport) is not None:
            sock = transport.get_extra_info("socket")
            with suppress(OSError):  # macOS: EINVAL for a connection that the child has just ended
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        self._response.close()
        if self.over or self._port is None or self._generation.died.done():
            return None
        return Cut(self._port, max(self._step_s, time.monotonic() - self._heard))


def _own_port(response: aiohttp.ClientResponse) -> int | None:
    """None when the answer has ended already."""
    connection = response.connection
    if connection is None or connection.transport is None:
        return None
    port: int = connection.transport.get_extra_info("sockname")[1]
    return port


class Upstream:
    """Asks the child. Use as `async with`, or start() and stop()."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(_note_connection)
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_AHEAD_BYTES,
            headers={"Content-Type": "application/json"},
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            trace_configs=[tracing],
        )

    async def stop(self) -> None:
        self._tasks.cancel()
        await self._tasks.finish()
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def post(
        self,
        generation: Generation,
        path: str,
        body: bytes,
        *,
        via: str = "",
        on_end: OnEnd = lambda _: None,
    ) -> AsyncIterator[Exchange]:
        """Ask the child; the exchange is readable within the block and cut at its end, also by cancelling.

        `via`: the field of this name, of a request that was received from somebody.

        Args:
            on_end: called once; when the block is left before the child has begun to answer, later than that.

        Raises:
            UpstreamBroken: it could not be asked, or closed or died before it began to answer.
        """
        headers = {"Via": via} if via else {}
        exchange = Exchange(await self._send(generation, path, body, headers, on_end), generation)
        on_death = _ignoring_result(exchange.on_death)
        generation.died.add_done_callback(on_death)
        try:
            yield exchange
        finally:
            generation.died.remove_done_callback(on_death)
            on_end(exchange.close())

    async def _send(
        self, generation: Generation, path: str, body: bytes, headers: Mapping[str, str], on_end: OnEnd
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "Upstream was not started"
        url, data = generation.base_url + path, body if len(body) < _LARGE_BODY_BYTES else io.BytesIO(body)
        asked = _Asked()
        asking = asyncio.ensure_future(
            self._session.post(
                url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=asked
            )
        )
        try:
            async with _until(generation.died, grace_s=_LAST_WORDS_S):
                return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._leave_early(asking, asked, generation, on_end)
            raise
        except (aiohttp.ClientError, OSError) as error:
            asking.cancel()
            on_end(None)
            how = Break.NOT_CONNECTED if isinstance(error, _NOT_CONNECTED) else Break.CUT
            raise UpstreamBroken(how, _describe(error)) from error

    def _leave_early(
        self,
        asking: asyncio.Future[aiohttp.ClientResponse],
        asked: _Asked,
        generation: Generation,
        on_end: OnEnd,
    ) -> None:
        """Leave a child that has not begun to answer.

        Not before it has: one that finds its client gone when it writes the headers forgets to mark the
        request, and generates all of max_tokens for nobody (server.py, handle_completion; measured).
        """
        if asked.connected and not generation.died.done():
            self._tasks.start(self._leave_after_headers(asking, generation, on_end), "leave")
        else:
            asking.cancel()
            on_end(None)

    async def _leave_after_headers(
        self, asking: asyncio.Future[aiohttp.ClientResponse], generation: Generation, on_end: OnEnd
    ) -> None:
        cut = None
        try:
            async with _until(generation.died, grace_s=0.0):
                cut = Exchange(await asking, generation).close()
        except (aiohttp.ClientError, OSError) as error:
            log.debug("left_unanswered", extra={"error": _describe(error)})
        finally:
            on_end(cut)


async def _note_connection(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionCreateEndParams
) -> None:
    del session, params
    context.trace_request_ctx.connected = True


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


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
