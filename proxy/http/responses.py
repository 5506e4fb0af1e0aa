"""JSON and error responses, and the headers that every response has."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from random import randint
from typing import Any

import orjson
from aiohttp import web

from proxy import errors
from proxy.dialects.errors import error_body, error_headers
from proxy.log.setup import new_request_id

REQUEST_ID = "x-request-id"

#: Server has no version, which would only help an attacker; nosniff keeps browsers from running a response.
_STANDARD_HEADERS = {"Server": "mlxguard-proxy", "X-Content-Type-Options": "nosniff"}


def add_standard_headers(response: web.StreamResponse, request_id: str | None = None) -> None:
    """Set the headers that every response has."""
    response.headers.update(_STANDARD_HEADERS)
    response.headers[REQUEST_ID] = request_id or new_request_id()


def json_response(document: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def error_response(error: errors.GatewayError, path: str = "") -> web.Response:
    """An error as JSON, with the headers that tell agents whether and when to retry.

    `path`: of the request, since each protocol has a form of its own.
    """
    response = json_response(error_body(error, path), status=error.status)
    response.headers.update(error_headers(error, path, _retry_after_s()))
    return response


def raw_error_response(error: errors.GatewayError) -> bytes:
    """The same as bytes, for a connection on which no request could be parsed."""
    body = orjson.dumps(error.body())
    headers = {
        **error.headers(_retry_after_s()),
        **_STANDARD_HEADERS,
        REQUEST_ID: new_request_id(),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _retry_after_s() -> int:
    return randint(*errors.RETRY_AFTER_RANGE)
