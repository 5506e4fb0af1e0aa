"""Reads a request's body within the limits on size, time and memory."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy import errors
from proxy.http.body_budget import BodyAccount
from proxy.http.timeouts import body_due

#: What aiohttp takes off a body; anything else would reach the parser as noise.
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})


async def read_body(
    request: web.Request,
    *,
    most_bytes: int,
    timeout_s: float,
    bytes_per_s: float = 1.0,
    account: BodyAccount | None = None,
) -> bytes:
    """The whole body, decompressed, at most `most_bytes` of it; what is held is put on `account`.

    Raises:
        Unavailable: all bodies together hold as much as they may.
        RequestTimeout: it did not all arrive in `timeout_s`, or more slowly than `bytes_per_s`.
        BodyTooLarge: it is too large, as it says or as it comes.
        UnsupportedEncoding, InvalidRequest: it cannot be read.
    """
    if (request.content_length or 0) > most_bytes:
        _too_large()
    if request.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
        raise errors.UnsupportedEncoding("Content-Encoding must be gzip, deflate or identity.")
    await _continue(request)
    body = bytearray()
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:
            while True:
                if not request.content.is_eof():  # as it is for most: the body came with the head
                    due = body_due(begun, len(body), whole_s=timeout_s, bytes_per_s=bytes_per_s)
                    scope.reschedule(loop.time() + due - time.monotonic())
                if not (piece := await request.content.readany()):
                    return bytes(body)
                if len(body) + len(piece) > most_bytes:
                    _too_large()
                if account is not None:
                    account.add(len(piece))
                body += piece
    except TimeoutError:
        raise errors.RequestTimeout("The request body did not arrive in time.") from None
    except web.RequestPayloadError:
        raise errors.InvalidRequest("The request body is not framed or compressed as it says.") from None


def _too_large() -> NoReturn:
    raise errors.BodyTooLarge("The request body is larger than [server] max_body_bytes.")


def _awaits_continue(request: web.Request) -> bool:
    """The client holds its body back until it is told to send it, and was not."""
    return _expects(request) and not request.get(_CONTINUED, False)


def _expects(request: web.Request) -> bool:
    """Other expectations than this one are passed over, as RFC 9110, 10.1.1, allows."""
    asked = request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue"
    return asked and request.body_exists


_CONTINUED = web.RequestKey("continued", bool)


async def _continue(request: web.Request) -> None:
    if not _expects(request):
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # an interim answer: the final one has not begun
    request[_CONTINUED] = True
