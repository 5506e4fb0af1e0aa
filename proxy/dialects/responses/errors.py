"""Pure. Failures in the form of the Responses API. The wording stays the one that agents act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.errors import GatewayError, PromptTooLong


def body(error: GatewayError) -> dict[str, Any]:
    """The body of a failed request: the same as of a chat request, but for the name of the field."""
    document = error.body()
    if document["error"]["param"] == "messages":
        document["error"]["param"] = "input"
    return document


def headers(error: GatewayError, retry_after_s: int) -> Mapping[str, str]:
    """Its headers. Codex ignores x-should-retry, so each failure of the server tells it when to come back."""
    told = dict(error.headers(retry_after_s))
    if error.status >= 500:
        told.setdefault("Retry-After", str(retry_after_s))
    return told


def failed(error: GatewayError) -> dict[str, str]:
    """The error in `response.failed`.

    Codex repeats the request after `server_error`, at once for five times; each waits in the queue. It ends
    the turn after the other two and shows the text of `invalid_prompt`. After an overflow the next turn
    begins with a compaction.
    """
    if isinstance(error, PromptTooLong):
        return {"code": "context_length_exceeded", "message": error.message}
    is_final = error.status < 500 or error.code == "cancelled"
    return {"code": "invalid_prompt" if is_final else "server_error", "message": error.message}
