"""Reads a request body within the limits on its size, its time and all bodies' memory."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy import errors
from proxy.config.settings import ServerSettings
from proxy.http.body_budget import BodyAccount
from proxy.http.connection import LAST
from proxy.http.timeouts import BodyClock

#: Encodings that aiohttp decodes; a body in any other would reach the parser as noise.
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})

_CONTINUED = web.RequestKey("continued", bool)


async def read_body(request: web.Request, limits: ServerSettings, account: BodyAccount) -> bytes:
    """Read the whole body, decompressed, and charge its size to `account`.

    Raises:
        Unavailable: the budget of all bodies together is used up.
        RequestTimeout: it took longer than `body_timeout_s`, or came slower than `body_min_bytes_per_s`.
        BodyTooLarge: its Content-Length, or what arrived, exceeds `max_body_bytes`.
        UnsupportedEncoding, InvalidRequest: it cannot be decoded.
    """
    if (request.content_length or 0) > limits.max_body_bytes:
        _too_large()
    if request.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
        raise errors.UnsupportedEncoding("Content-Encoding must be gzip, deflate or identity.")
    await _send_continue(request)
    body = bytearray()
    clock = BodyClock(
        time.monotonic(), total_s=limits.body_timeout_s, bytes_per_s=limits.body_min_bytes_per_s
    )
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:
            while True:
                if not request.content.is_eof():  # usually it is: the body came together with the head
                    scope.reschedule(loop.time() + clock.deadline - time.monotonic())
                if not (piece := await request.content.readany()):
                    return bytes(body)
                if len(body) + len(piece) > limits.max_body_bytes:
                    _too_large()
                account.add(len(piece))
                clock.arrived(len(piece), time.monotonic())
                body += piece
    except TimeoutError:
        raise errors.RequestTimeout("The request body did not arrive in time.") from None
    except web.RequestPayloadError:
        request[LAST] = True  # where it ends is unknown
        raise errors.InvalidRequest("The request body is not framed or compressed as it says.") from None


def awaits_continue(request: web.Request) -> bool:
    """Whether the client still holds its body back until it is sent "100 Continue"."""
    return _expects_continue(request) and not request.get(_CONTINUED, False)


def _too_large() -> NoReturn:
    raise errors.BodyTooLarge("The request body is larger than [server] max_body_bytes.")


def _expects_continue(request: web.Request) -> bool:
    """Other expectations are ignored, as RFC 9110, 10.1.1, allows."""
    asked = request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue"
    return asked and request.body_exists


async def _send_continue(request: web.Request) -> None:
    if not _expects_continue(request):
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # an interim response: the final one has not begun
    request[_CONTINUED] = True
