"""Failures by the path of their request."""

from __future__ import annotations

import pytest

from proxy.dialects.errors import error_body, error_headers
from proxy.errors import PromptTooLong, Unauthorized, UpstreamFailed

OVERFLOW = PromptTooLong(prompt_tokens=9, max_tokens=1, limit=8)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/nothing"])
def test_messages(path: str) -> None:
    assert error_body(Unauthorized("no"), path)["error"]["type"] == "authentication_error"


def test_responses() -> None:
    assert error_body(OVERFLOW, "/v1/responses")["error"]["param"] == "input"
    assert error_headers(UpstreamFailed("cut"), "/v1/responses", 9) == {"Retry-After": "9"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messagesx", "/v1/responsesx", "/", ""])
def test_all_others_are_as_chat_has_them(path: str) -> None:
    assert error_body(OVERFLOW, path) == OVERFLOW.body()
    assert error_headers(UpstreamFailed("cut"), path, 9) == {}
