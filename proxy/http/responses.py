"""Errors as HTTP answers, and the headers that every answer has."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from random import randint

import orjson
from aiohttp import web

from proxy import errors
from proxy.log.setup import new_request_id

REQUEST_ID = "x-request-id"

#: No version: it would only help to choose an attack. nosniff: an answer is never taken for a script.
_EVERY_ANSWER = {"Server": "mlxguard-proxy", "X-Content-Type-Options": "nosniff"}


def identify(response: web.StreamResponse, request_id: str | None = None) -> None:
    """Put on the headers that every answer has."""
    response.headers.update(_EVERY_ANSWER)
    response.headers[REQUEST_ID] = request_id or new_request_id()


def error_response(error: errors.GuardError) -> web.Response:
    """An error as its JSON answer, with what tells agents whether and when to come back."""
    return web.Response(
        body=orjson.dumps(error.body()),
        status=error.status,
        headers=_come_back(error),
        content_type="application/json",
    )


def raw_answer(error: errors.GuardError) -> bytes:
    """The same as bytes, for a connection on which no request was understood."""
    body = orjson.dumps(error.body())
    headers = {
        **_come_back(error),
        **_EVERY_ANSWER,
        REQUEST_ID: new_request_id(),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _come_back(error: errors.GuardError) -> Mapping[str, str]:
    return error.headers(randint(*errors.RETRY_AFTER_RANGE))
