"""What is noted of the child's events; test_rewrite.py and test_aggregate.py see them whole."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.stream import sse
from proxy.stream.child_stream import (
    StreamProgress,
    Usage,
    add_reasoning_content,
    choice_of,
    delta_of,
    read_event,
)
from tests.support import child_events


def seen_in(*blocks: bytes) -> StreamProgress:
    seen = StreamProgress()
    for block in blocks:
        read_event(block.removesuffix(sse.END), seen)
    return seen


def test_a_whole_answer_is_noted() -> None:
    seen = seen_in(
        b": keepalive 3/7", child_events.delta(content="x"), child_events.usage(), child_events.DONE
    )
    assert seen == StreamProgress(events=1, content=True, done=True, progress=(3, 7), usage=Usage(7, 3, 2))


def test_progress_stays_over_other_comments() -> None:
    assert seen_in(b": keepalive 3/7", b": something").progress == (3, 7)


def test_usage_of_a_server_without_a_prompt_cache() -> None:
    assert seen_in(child_events.usage(cached=None)).usage == Usage(7, 3, None)


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None, "completion_tokens": 1}, None, []])
def test_usage_without_counts_is_malformed(usage: Any) -> None:
    with pytest.raises(sse.Malformed):
        seen_in(child_events.event({"choices": [], "usage": usage}))


@pytest.mark.parametrize(
    "event", [{}, {"choices": None}, {"choices": [5]}, {"choices": []}, {"choices": [{}, {}]}]
)
def test_an_event_has_one_choice_or_usage(event: dict[str, Any]) -> None:
    with pytest.raises(sse.Malformed):
        choice_of(event)


def test_the_delta_of_chat_and_of_text() -> None:
    assert delta_of({"delta": {"content": "x"}}) == {"content": "x"}
    assert delta_of({"text": "x"}) == {"text": "x"}


@pytest.mark.parametrize(
    "delta",
    [
        5,
        {"content": 5},
        {"text": ["x"]},
        {"reasoning": {"a": 1}},
        {"tool_calls": "x"},
        {"tool_calls": 5},
        {"tool_calls": {"a": 1}},
        {"tool_calls": ["x"]},
    ],
)
def test_a_delta_of_other_types_is_malformed(delta: Any) -> None:
    with pytest.raises(sse.Malformed):
        delta_of({"delta": delta})


def test_reasoning_under_both_names_only_when_there_is_some() -> None:
    part: dict[str, Any] = {"reasoning": ""}
    add_reasoning_content(part)
    assert part == {"reasoning": ""}
