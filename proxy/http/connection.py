"""Client connections: their number, their timeouts, and error responses to what is not HTTP.

aiohttp parses and writes; this module adds what aiohttp leaves open. A request that aiohttp itself refuses
(malformed, a header too long, two framings) gets the documented error object; aiohttp's own response and log
line would quote the sender's bytes. Once a second, a sweep checks the timeouts of all connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.streams import StreamReader

from proxy import errors
from proxy.config.settings import ServerSettings
from proxy.http.connection_limits import ConnectionCounts, ConnectionVerdict
from proxy.http.early_listener import EarlyListener
from proxy.http.responses import add_standard_headers, error_response, raw_error_response
from proxy.http.timeouts import ConnectionTimeouts, Lateness
from supervisor.aio import Timer

log = logging.getLogger("mlxguard.http")

#: Longest request line and longest header, in bytes; agents send a few hundred.
_MAX_LINE = 16 * 1024

#: Most headers of one request.
_MAX_HEADERS = 100

#: Seconds to read and discard the rest of a body that was answered early, so that a reset does not destroy
#: the response on its way.
_LINGER_S = 5.0

_SWEEP_S = 1.0

#: Set on a request after whose response the connection closes, without reading the rest of its body.
LAST = web.RequestKey("last", bool)


class Site(web.BaseSite):
    """A listener whose connections are `Connection`s.

    `on_response`: called with the status of each response that is sent without a handler.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        listener: EarlyListener,
        settings: ServerSettings,
        on_response: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner)
        self._listener = listener
        self.settings = settings
        self.on_response = on_response
        self.clock = clock
        self.counts = ConnectionCounts(
            total=settings.max_connections, per_address=settings.connections_per_address
        )
        self.connections: set[Connection] = set()
        self._sweeper = Timer()

    @property
    def name(self) -> str:
        host, port = self._listener.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        await super().start()
        self._server = self._listener.hand_over(self._connection)
        self._sweep()

    async def stop(self) -> None:
        self._sweeper.clear()
        await super().stop()

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None, "connections come between start and stop"
        return Connection(server, self)

    def _sweep(self) -> None:
        now = self.clock()
        for connection in tuple(self.connections):
            connection.check(now)
        self._sweeper.set(_SWEEP_S, self._sweep)


class Connection(web.RequestHandler):
    """One aiohttp connection, counted against the limits and subject to the timeouts."""

    __slots__ = ("_address", "_rest", "_site", "_timeouts", "_verdict", "_wire")

    def __init__(self, server: web.Server, site: Site) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=log,
            access_log=None,  # type: ignore[arg-type]  # AppRunner documents None as "no access log"
            keepalive_timeout=site.settings.idle_timeout_s,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
            lingering_time=_LINGER_S,
        )
        self._site = site
        self._verdict = ConnectionVerdict.DROPPED
        self._address = ""
        self._rest: StreamReader | None = None  # of a body whose request was answered before it had arrived
        self._wire: asyncio.Transport | None = None
        self._timeouts = ConnectionTimeouts(
            head_s=site.settings.header_timeout_s,
            reading_s=site.settings.send_timeout_s,
            head_since=site.clock(),
        )

    # --- the life of a connection ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self._verdict = self._site.counts.opened(self._address)
        if self._verdict is ConnectionVerdict.ADMITTED:
            self._site.connections.add(self)
            super().connection_made(transport)
        elif self._verdict is ConnectionVerdict.REFUSED:
            self._site.connections.add(self)
            self.send_final_error(errors.Unavailable("too_many_connections"))
        else:
            self.force_close()
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._site.connections.discard(self)
        self._site.counts.closed(self._address, self._verdict)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rest is not None and self._rest.is_eof():
            self._rest = None
        if data and self._rest is None:  # else it is no head, and nobody waits for one
            self._timeouts.data_received(self._site.clock())
        super().data_received(data)

    @property
    def unsent(self) -> int:
        """Bytes in the write buffer that the client has not read yet."""
        return self._wire.get_write_buffer_size() if self._wire else 0

    def check(self, now: float) -> None:
        """Close the connection if the client is too slow; called once a second."""
        wire = self._wire
        assert wire is not None, "only connections that were made are checked"
        if self._verdict is ConnectionVerdict.REFUSED:
            wire.abort()  # by now the client had a second to read the refusal
            return
        late = self._timeouts.late(now, unsent=self.unsent, writing_paused=self.writing_paused)
        if late is Lateness.READING:
            log.info("client_timeout", extra={"late": late.value, "address": self._address})
            wire.abort()
        elif late is Lateness.HEAD and not wire.is_closing():
            log.info("client_timeout", extra={"late": late.value, "address": self._address})
            self.send_final_error(errors.RequestTimeout("The head of the request did not arrive in time."))
            wire.close()

    def send_final_error(self, error: errors.GatewayError) -> None:
        """Send an error where aiohttp has no request to respond to, and accept no more requests."""
        assert self._wire is not None
        self._wire.write(raw_error_response(error))
        self._wire.write_eof()
        self._site.on_response(error.status)
        self.force_close()

    # --- requests of a connection -----------------------------------------------------------------------

    def request_began(self) -> None:
        """A whole head was read, and its request is being served."""
        self._timeouts.request_began()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):
            resp = self._refusal(errors.InvalidRequest("The request could not be understood."))
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._timeouts.request_ended()
            self._rest = None if request.content.is_eof() else request.content
            if request.get(LAST):
                self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to what aiohttp could not parse, or to a bug outside the middleware."""
        self._timeouts.request_began()
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("internal_error", exc_info=exc)
            return self._refusal(errors.InternalError())
        log.info("not_http", extra={"reason": type(exc).__name__, "address": self._address})
        return self._refusal(_translated(exc, message))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log the traceback only: aiohttp's message quotes the request."""
        self.logger.error("internal_error", exc_info=kw.get("exc_info", True))

    def _refusal(self, error: errors.GatewayError) -> web.Response:
        response = error_response(error)
        add_standard_headers(response)
        response.force_close()
        self._site.on_response(error.status)
        return response


def _translated(exc: BaseException | None, message: str | None) -> errors.GatewayError:
    """A parser's error as ours; its message has the sender's bytes in it, so it is not repeated."""
    if isinstance(exc, ContentEncodingError):
        return errors.UnsupportedEncoding("Content-Encoding must be gzip, deflate or identity.")
    if isinstance(exc, LineTooLong) or message == "Too many headers received":
        return errors.HeadTooLarge(
            f"The request line and each header may have {_MAX_LINE // 1024} KiB, "
            f"and a request {_MAX_HEADERS} headers."
        )
    return errors.InvalidRequest("This is not a well-formed HTTP/1.1 request.")


def request_began(request: web.Request) -> None:
    """Tell the request's connection that its head is complete (aiohttp's test server has other ones)."""
    if isinstance(request.protocol, Connection):
        request.protocol.request_began()


def check_head(request: web.Request) -> None:
    """Refuse what the parser accepts and RFC 9112 forbids.

    That is: transfer codings other than chunked, and any in HTTP/1.0 (6.1); a target with a fragment (3.2).
    Where two servers disagree about the end of a body, requests can be smuggled; so the connection closes.

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
    """Refuse HTTP/0.9 and HTTP/2.0, which the parser accepts.

    aiohttp's own response would claim the client's version, which RFC 9110, 2.5, forbids; so the error is
    written directly.

    Raises:
        InvalidRequest: the version is not supported.
        ConnectionResetError: likewise, and the error was already sent.
    """
    if request.version in (HttpVersion10, HttpVersion11):
        return
    refusal = errors.InvalidRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    if not isinstance(request.protocol, Connection):
        raise refusal
    request.protocol.send_final_error(refusal)
    raise ConnectionResetError
