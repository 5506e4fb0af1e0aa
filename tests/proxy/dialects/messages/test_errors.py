"""Failures as Claude Code and the Anthropic SDKs act on them."""

from __future__ import annotations

import pytest

from proxy.dialects.messages import errors
from proxy.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    PromptTooLong,
    Unauthorized,
    Unavailable,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (Unauthorized("no"), "authentication_error"),
        (Forbidden("no"), "permission_error"),
        (ModelNotFound("m"), "not_found_error"),
        (BodyTooLarge("no"), "request_too_large"),
        (Unavailable("full"), "overloaded_error"),
        (InternalError(), "api_error"),
    ],
)
def test_types_by_status(error: GatewayError, kind: str) -> None:
    assert errors.body(error) == {"type": "error", "error": {"type": kind, "message": error.message}}


def test_an_overflow_has_the_words_that_make_the_client_compact() -> None:
    error = PromptTooLong(prompt_tokens=39000, max_tokens=100, limit=32768)
    message = errors.body(error)["error"]["message"]
    assert message.startswith("prompt is too long: 39000 tokens > 32768 maximum")
    assert "input length and `max_tokens` exceed" not in message, "it would only ask for less"


def test_no_failure_sounds_like_a_server_without_system_messages() -> None:
    """`not supported` beside `role` and `system` makes the client rewrite its whole history."""
    assert "role" not in errors.body(Unavailable("full"))["error"]["message"]


def test_a_busy_server_says_when_to_come_back() -> None:
    assert errors.headers(Unavailable("full"), 17) == {"Retry-After": "17"}
