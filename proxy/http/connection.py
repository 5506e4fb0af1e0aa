"""Client connections: how many, how slow they may be, and how what is not HTTP is answered.

aiohttp parses and writes; this adds what it leaves open. What it refuses by itself (a bad request line, a
header that is too long, two framings) leaves as the contract's error object, without the sender's bytes,
which aiohttp's own answer and log quote. One sweep a second asks every connection whether it is late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import LineTooLong

from proxy import errors
from proxy.http.connection_limits import ConnectionCounts, ConnectionVerdict
from proxy.http.early_listener import EarlyListener
from proxy.http.responses import error_response, identify, raw_answer
from proxy.http.timeouts import ConnectionTimeouts, Lateness

log = logging.getLogger("mlxguard.edge")

#: Bytes of a request line and of one header; headers of one request. Agents send a few hundred bytes.
_LONGEST_LINE, _MOST_HEADERS = 16 * 1024, 100

#: After an answer that came before the end of its request's body, the rest is read away for so long, so
#: that the answer is not lost to a reset.
_LINGER_S = 5.0

_SWEEP_S = 1.0

#: Set on a request after whose answer nothing is read any more, also not the rest of its body.
LAST = web.RequestKey("last", bool)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds and counts; see [server] in proxy.toml."""

    total: int = 512
    per_address: int = 256
    head_s: float = 15.0
    idle_s: float = 75.0
    reading_s: float = 120.0


class Site(web.BaseSite):
    """An open door whose connections are `Connection`s. `settle(status)`: an answer left that no
    handler gave."""

    def __init__(
        self,
        runner: web.AppRunner,
        door: EarlyListener,
        limits: ConnectionLimits,
        settle: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner)
        self._door = door
        self.limits = limits
        self.settle = settle
        self.clock = clock
        self.census = ConnectionCounts(total=limits.total, per_address=limits.per_address)
        self.connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        host, port = self._door.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        await super().start()
        self._server = self._door.hand_over(self._connection)
        self._sweep()

    async def stop(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        await super().stop()

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None, "connections come between start and stop"
        return Connection(server, self)

    def _sweep(self) -> None:
        now = self.clock()
        for connection in tuple(self.connections):
            connection.check(now)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


class Connection(web.RequestHandler):
    """One connection: aiohttp's, with a place in the census and a limit to our patience."""

    __slots__ = ("_address", "_entry", "_patience", "_site", "_wire")

    def __init__(self, server: web.Server, site: Site) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=logging.getLogger("mlxguard.http"),
            access_log=None,  # type: ignore[arg-type]  # as AppRunner documents it: none
            keepalive_timeout=site.limits.idle_s,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            max_headers=_MOST_HEADERS,
            lingering_time=_LINGER_S,
        )
        self._site = site
        self._entry = ConnectionVerdict.DROPPED
        self._address = ""
        self._wire: asyncio.Transport | None = None
        limits = site.limits
        self._patience = ConnectionTimeouts.begin(
            site.clock(), head_s=limits.head_s, reading_s=limits.reading_s
        )

    # --- the life of a connection ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self._entry = self._site.census.enter(self._address)
        if self._entry is ConnectionVerdict.ADMITTED:
            self._site.connections.add(self)
            super().connection_made(transport)
        elif self._entry is ConnectionVerdict.REFUSED:
            self._site.connections.add(self)
            self.last_words(errors.Unavailable("too_many_connections"))
        else:
            self.force_close()
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._site.connections.discard(self)
        self._site.census.leave(self._address, self._entry)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if data:
            self._patience.bytes_came(self._site.clock())
        super().data_received(data)

    @property
    def unsent(self) -> int:
        """Bytes that wait in our buffer for the client to read."""
        return self._wire.get_write_buffer_size() if self._wire else 0

    def check(self, now: float) -> None:
        """Give up on a client that is late; called once a second."""
        wire = self._wire
        assert wire is not None, "only connections that were made are checked"
        if self._entry is ConnectionVerdict.REFUSED:
            wire.abort()  # it had a second to read why
            return
        late = self._patience.late(now, unsent=self.unsent, writing_paused=self.writing_paused)
        if late is Lateness.READING:
            log.info("client_late", extra={"late": late.value, "address": self._address})
            wire.abort()
        elif late is Lateness.HEAD and not wire.is_closing():
            log.info("client_late", extra={"late": late.value, "address": self._address})
            self.last_words(errors.RequestTimeout("The head of the request did not arrive in time."))
            wire.close()

    def last_words(self, error: errors.GuardError) -> None:
        """Answer what is no request that aiohttp could answer; the connection takes no more of them."""
        assert self._wire is not None
        self._wire.write(raw_answer(error))
        self._wire.write_eof()
        self._site.settle(error.status)
        self.force_close()

    # --- requests of a connection -----------------------------------------------------------------------

    def request_began(self) -> None:
        """A whole head was read, and its request is being served."""
        self._patience.request_began()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):
            resp = self._refusal(errors.InvalidRequest("The request could not be understood."))
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._patience.request_ended()
            if request.get(LAST):
                self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp could not parse, or to a bug beyond the edge's own frame."""
        self._patience.request_began()
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("internal_error", exc_info=exc)
            return self._refusal(errors.InternalError())
        log.info("not_http", extra={"reason": type(exc).__name__, "address": self._address})
        return self._refusal(_translated(exc, message))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's words quote the request; the traceback is enough."""
        self.logger.error("internal_error", exc_info=kw.get("exc_info", True))

    def _refusal(self, error: errors.GuardError) -> web.Response:
        response = error_response(error)
        identify(response)
        response.force_close()
        self._site.settle(error.status)
        return response


def _translated(exc: BaseException | None, message: str | None) -> errors.GuardError:
    """A parser's complaint. Its own words have the sender's bytes in them, and so are not repeated."""
    if isinstance(exc, LineTooLong) or message == "Too many headers received":
        return errors.HeadTooLarge(
            f"The request line and each header may have {_LONGEST_LINE // 1024} KiB, "
            f"and a request {_MOST_HEADERS} headers."
        )
    return errors.InvalidRequest("This is not a well-formed HTTP/1.1 request.")


def began(request: web.Request) -> None:
    """Tell the request's connection that its head is complete (a test server's own has no clock)."""
    if isinstance(request.protocol, Connection):
        request.protocol.request_began()


def check_head(request: web.Request) -> None:
    """Refuse what the parser lets pass and RFC 9112 does not: other transfer codings than chunked, and any in
    HTTP/1.0 (6.1); a target with a fragment (3.2). Where one end of a chain reads another body than the
    other, requests can be smuggled; so nothing more is read from such a connection.

    Raises:
        InvalidRequest: one of these.
    """
    codings = request.headers.getall("Transfer-Encoding", ())
    if codings and (request.version < HttpVersion11 or [c.strip().lower() for c in codings] != ["chunked"]):
        request[LAST] = True
        raise errors.InvalidRequest("Transfer-Encoding may only be chunked, and only in HTTP/1.1.")
    if "#" in request.raw_path:
        raise errors.InvalidRequest("A request target has no fragment.")


def check_version(request: web.Request) -> None:
    """Refuse HTTP/0.9 and HTTP/2.0, which the parser lets pass. Not by an answer of aiohttp's: that would
    claim the client's version (RFC 9110, 2.5).

    Raises:
        InvalidRequest, ConnectionResetError: the version is not ours; the latter if it was answered.
    """
    if request.version in (HttpVersion10, HttpVersion11):
        return
    refusal = errors.InvalidRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    if not isinstance(request.protocol, Connection):
        raise refusal
    request.protocol.last_words(refusal)
    raise ConnectionResetError
