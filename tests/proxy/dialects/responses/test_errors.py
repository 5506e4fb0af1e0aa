"""Failures as Codex acts on them."""

from __future__ import annotations

import pytest

from proxy.dialects.responses import errors
from proxy.errors import (
    Cancelled,
    GatewayError,
    InternalError,
    InvalidRequest,
    PromptTooLong,
    RestartFailed,
    Unavailable,
    UpstreamFailed,
)


def test_an_overflow_names_the_input_and_keeps_its_code() -> None:
    document = errors.body(PromptTooLong(prompt_tokens=9, max_tokens=1, limit=8))
    assert document["error"]["code"] == "context_length_exceeded"
    assert document["error"]["param"] == "input"


def test_other_fields_keep_their_names() -> None:
    assert errors.body(InvalidRequest("no", param="tools[1]"))["error"]["param"] == "tools[1]"


@pytest.mark.parametrize(
    "error",
    [Unavailable("full"), RestartFailed("budget"), Cancelled(), UpstreamFailed("cut"), InternalError()],
)
def test_each_failure_of_the_server_says_when_to_come_back(error: GatewayError) -> None:
    assert errors.headers(error, 17)["Retry-After"] == "17"


def test_a_fault_of_the_request_does_not() -> None:
    assert "Retry-After" not in errors.headers(InvalidRequest("no"), 17)
