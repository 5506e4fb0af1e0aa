"""Pure. The form of a failure by the path of its request: each protocol's clients read their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.messages import errors as messages_errors
from proxy.dialects.responses import errors as responses_errors
from proxy.errors import GatewayError

#: How paths of the two dialects begin. Only whole segments count.
MESSAGES_PATH, RESPONSES_PATH = "/v1/messages", "/v1/responses"


def error_body(error: GatewayError, path: str) -> dict[str, Any]:
    """The body of a failed request."""
    if _is_below(path, MESSAGES_PATH):
        return messages_errors.body(error)
    return responses_errors.body(error) if _is_below(path, RESPONSES_PATH) else error.body()


def error_headers(error: GatewayError, path: str, retry_after_s: int) -> Mapping[str, str]:
    """The headers that tell its client whether and when to come back. `retry_after_s`: whole seconds."""
    if _is_below(path, RESPONSES_PATH):
        return responses_errors.headers(error, retry_after_s)
    return error.headers(retry_after_s)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
