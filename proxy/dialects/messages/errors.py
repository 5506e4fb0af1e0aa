"""Pure. Failures in the form of the Messages API. The wording stays the one that agents act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.errors import GatewayError
from proxy.stream import sse

#: Error types by status; other statuses below 500 are `invalid_request_error`, all others `api_error`.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def body(error: GatewayError) -> dict[str, Any]:
    """The body of a failed request."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def headers(error: GatewayError, retry_after_s: int) -> Mapping[str, str]:
    """Its headers. Claude Code obeys a Retry-After of up to 60 s, and x-should-retry."""
    return error.headers(retry_after_s)


def event(error: GatewayError) -> bytes:
    """The event that ends a stream.

    Every failure of the server is `overloaded_error` here: before content, Claude Code repeats the request
    as a stream after no other. After anything else it asks for one whole body, which it waits 300 s for. That
    is just right for an error of the request: the answer to that one has the status which it acts on.
    """
    document = body(error)
    if error.status >= 500:
        document["error"]["type"] = "overloaded_error"
    return b"event: error\n" + sse.event(document)
