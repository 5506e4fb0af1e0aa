"""The wording of errors is an interface: agents decide by it whether to compact, to retry or to stop."""

from __future__ import annotations

import inspect
import re

import pytest

from proxy import errors

OVERFLOW = errors.PromptTooLong(prompt_tokens=39000, max_tokens=1000, limit=32768)


def test_overflow_body_is_the_contract_word_for_word() -> None:
    assert OVERFLOW.status == 400
    assert OVERFLOW.body() == {
        "error": {
            "message": "prompt is too long: 39000 tokens > 32768 maximum (context_length_exceeded). "
            "This model's maximum context length is 32768 tokens. However, you requested 40000 tokens "
            "(39000 in the messages, 1000 in the completion). Please reduce the length of the messages "
            "or completion.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


# What each agent looks for in an error to take it for an overflow (from their shipped code).
@pytest.mark.parametrize(
    "pattern",
    [
        r"prompt is too long",  # Claude Code, OpenCode, pi
        r"maximum context length is \d+ tokens",  # LiteLLM and so aider, Cline, Continue
        r"context_length_exceeded",  # Qwen Code, Roo, LangChain
        r"prompt is too long: \d+ tokens > \d+ maximum",  # pi, Crush
        r"reduce the length of the messages",  # Goose, Hermes
    ],
)
def test_overflow_text_is_recognised(pattern: str) -> None:
    assert re.search(pattern, OVERFLOW.message)


def test_overflow_text_does_not_read_like_a_rate_limit() -> None:
    assert not re.search(r"rate limit|per minute", OVERFLOW.message, re.IGNORECASE)


@pytest.mark.parametrize("error", [errors.Unavailable("why"), errors.RestartingFailed("why")])
def test_unavailable_text_does_not_read_like_an_overflow(error: errors.GuardError) -> None:
    assert error.status == 503
    assert error.body()["error"]["code"] == "503"
    assert not re.search(r"context|token limit|max_tokens", error.message, re.IGNORECASE)
    assert "why" not in error.message, "the reason is for the log"


def test_unavailable_says_when_to_come_back_in_whole_seconds() -> None:
    assert errors.Unavailable("why").headers(17) == {"Retry-After": "17"}
    assert errors.RestartingFailed("why").headers(17) == {"Retry-After": "17", "x-should-retry": "false"}


def test_client_errors_say_not_to_come_back() -> None:
    assert errors.InvalidRequest("bad", param="seed").headers(17) == {"x-should-retry": "false"}
    assert errors.ModelNotFound("gpt-4", "tiny").headers(17) == {"x-should-retry": "false"}


def test_failures_of_one_request_say_neither() -> None:
    assert errors.UpstreamFailed("why").headers(17) == {}
    assert errors.InternalError().headers(17) == {}


def test_every_error_has_an_object_with_a_string_message() -> None:
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.GuardError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        assert 400 <= kind.status < 600
        assert kind.__doc__, f"{kind.__name__} does not say when it is raised"


@pytest.mark.parametrize(
    "error", [errors.ModelNotFound("x", "y"), errors.InvalidRequest("bad"), errors.Quarantined()]
)
def test_other_client_errors_hold_no_number_that_reads_like_a_retryable_status(
    error: errors.GuardError,
) -> None:
    assert not re.search(r"429|50[0234]|524", error.message)
