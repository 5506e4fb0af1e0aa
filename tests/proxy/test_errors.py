"""The wording of errors is an interface: agents decide by it whether to compact, to retry or to stop."""

from __future__ import annotations

import inspect
import re

import pytest

from proxy import errors
from supervisor.lifecycle.causes import CAUSE_INFO

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


# What each agent looks for in an error to take it for an overflow, as its shipped code has it: patterns of
# which one is enough, all without regard to case. Where an agent tries several, those that could hold.
OVERFLOW_PATTERNS = {
    "OpenCode 1.18": [
        r"prompt is too long",
        r"maximum context length is \d+ tokens",
        r"reduce the length of the messages",
        r"context[_ ]length[_ ]exceeded",
    ],
    "pi 0.87": [
        r"prompt (?:is )?too long",
        r"reduce the length of the messages",
        r"maximum context length is \d+ tokens",
        r"context[_ ]length[_ ]exceeded",
    ],
    "Qwen Code 0.24": [
        r"\bcontext[_\s-]?length[_\s-]?exceeded\b",
        r"\bmaximum context length\b",
        r"\bprompt\s+(?:is\s+)?too long\b",
        r"\btokens?\s*>\s*[\d,]+\s*(?:maximum|max|limit)\b",
    ],
    "Cline 3.0, Roo": [r"\bcontext\s*(?:length|window)\b", r"\bmaximum\s*context\b"],
    "LiteLLM, and so aider 0.86": [r"this model's maximum context length is"],
    "LangChain 1.7": [r"context_length_exceeded"],
    "Continue 1.5": [r"maximum context length"],
    "Claude Code 2.1": [r"prompt is too long"],
    "Crush": [r"prompt is too long: \d+ tokens > \d+ maximum"],
    "Goose": [r"reduce the length"],
    "Hermes 0.19": [r"maximum context length", r"reduce the length of the messages"],
}
#: What makes them take it for something else after all.
OTHER_PATTERNS = (
    r"rate.?limit", r"per minute", r"too many requests", r"^(throttling error|service unavailable):",
    r"deadline exceeded", r"\btime(d )?out\b", r"quota", r"string too long",
)  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "pattern"), [(agent, p) for agent, patterns in OVERFLOW_PATTERNS.items() for p in patterns]
)
def test_overflow_text_is_recognised(agent: str, pattern: str) -> None:
    assert re.search(pattern, OVERFLOW.message, re.IGNORECASE), agent


@pytest.mark.parametrize("pattern", OTHER_PATTERNS)
def test_overflow_text_reads_like_nothing_else(pattern: str) -> None:
    assert not re.search(pattern, OVERFLOW.message, re.IGNORECASE)


def test_overflow_numbers_are_found_where_agents_look_for_them() -> None:
    """Qwen Code compacts to the limit that it reads there."""
    first = re.search(r"(\d[\d,]*)\s*tokens?\s*>\s*(\d[\d,]*)", OVERFLOW.message)
    second = re.search(
        r"maximum context length is\s*(\d[\d,]*)\s*tokens?[\s\S]*?requested\s*(\d[\d,]*)", OVERFLOW.message
    )
    assert first is not None and first.groups() == ("39000", "32768")
    assert second is not None and second.groups() == ("32768", "40000")


@pytest.mark.parametrize(
    "error",
    [
        errors.Unavailable("why"),
        errors.RestartFailed("why"),
        *(errors.RestartFailed("why", nature.explanation) for nature in CAUSE_INFO.values()),
    ],
)
def test_unavailable_text_does_not_read_like_an_overflow(error: errors.GatewayError) -> None:
    assert error.status == 503
    assert error.body()["error"]["code"] == "503"
    assert not re.search(r"context|token limit|max_tokens", error.message, re.IGNORECASE)
    assert "why" not in error.message, "the reason is for the log"


def test_unavailable_says_when_to_retry_in_whole_seconds() -> None:
    assert errors.Unavailable("why").headers(17) == {"Retry-After": "17"}
    assert errors.RestartFailed("why").headers(17) == {"Retry-After": "17", "x-should-retry": "false"}


def test_client_errors_say_not_to_retry() -> None:
    assert errors.InvalidRequest("bad", param="seed").headers(17) == {"x-should-retry": "false"}
    assert errors.ModelNotFound("tiny").headers(17) == {"x-should-retry": "false"}


def test_failures_of_one_request_say_neither() -> None:
    assert errors.UpstreamFailed("why").headers(17) == {}
    assert errors.InternalError().headers(17) == {}


def test_every_error_has_an_object_with_a_string_message() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.GatewayError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        assert 400 <= kind.status < 600
        assert kind.__doc__, f"{kind.__name__} does not say when it is raised"


@pytest.mark.parametrize(
    "error", [errors.ModelNotFound("y"), errors.InvalidRequest("bad"), errors.Quarantined()]
)
def test_other_client_errors_hold_no_number_that_reads_like_a_retryable_status(
    error: errors.GatewayError,
) -> None:
    assert not re.search(r"429|50[0234]|524", error.message)
