"""Rewriting: the child's events keep their content and get the answer's identity, on both paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.child_stream import Usage
from proxy.stream.rewrite import Rewriter
from tests.proxy.stream.test_sse import pieces_of
from tests.support import child_events

IDENTITY = {"id": "chatcmpl-ours", "object": "chat.completion.chunk", "created": 42, "model": "served"}


def rewriter(*, include_usage: bool = False, is_chat: bool = True) -> Rewriter:
    answer = Answer.new(unique="ours", created=42, model="served", is_chat=is_chat)
    return Rewriter(answer, include_usage=include_usage)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    assert stream.endswith(sse.END) or not stream
    blocks = [block for block in stream.split(sse.END) if block]
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks if block != sse.DONE]


def deltas_of(stream: bytes) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events_of(stream) if event["choices"]]


def test_every_event_has_the_answers_identity() -> None:
    out = rewriter(include_usage=True).feed(child_events.chat_stream("a", "b", "c"))

    events = events_of(out)

    assert len(events) == 5
    for event in events:
        assert {key: event[key] for key in IDENTITY} == IDENTITY
        assert event["system_fingerprint"] == "0.32.2-0.32.4-Linux"
    assert [delta.get("content") for delta in deltas_of(out)] == ["a", "b", "c", None]
    assert events[3]["choices"][0]["finish_reason"] == "stop"
    assert events[4]["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert out.endswith(b"data: [DONE]\n\n")


def test_events_that_only_change_their_head_pass_through_as_if_fed() -> None:
    first, *others = [child_events.delta(content=f"{number}") for number in range(4)]
    fed, passed = rewriter(), rewriter()
    assert passed.pass_through(first) is None, "the head is not known yet"
    assert fed.feed(first) == passed.feed(first)

    assert passed.pass_through(b"".join(others)) == fed.feed(b"".join(others))
    assert passed.seen == fed.seen


@pytest.mark.parametrize(
    "data",
    [
        child_events.delta(content="a")[:-1],
        child_events.delta(content="a") + b"data",
        child_events.delta(content="a") + child_events.delta(reasoning="b"),
        child_events.delta(content="a") + child_events.usage(),
        child_events.delta(content="a") + child_events.DONE,
        child_events.delta(run="bbbb", content="a"),
        b": keepalive 1/2\n\n",
    ],
)
def test_anything_else_does_not_pass_and_changes_nothing(data: bytes) -> None:
    fed, refused = rewriter(include_usage=True), rewriter(include_usage=True)
    for each in (fed, refused):
        each.feed(child_events.delta(content="first"))
    assert refused.pass_through(data) is None
    assert refused.feed(data) == fed.feed(data)
    assert refused.seen == fed.seen


def test_nothing_passes_an_event_that_has_only_begun() -> None:
    one = rewriter()
    one.feed(child_events.delta(content="first") + child_events.delta(content="second")[:50])
    assert one.pass_through(child_events.delta(content="third")) is None


def test_text_completions_keep_their_object() -> None:
    out = rewriter(is_chat=False, include_usage=True).feed(
        child_events.text("a")
        + child_events.text("b", finish="length")
        + child_events.usage()
        + child_events.DONE
    )

    events = events_of(out)

    assert {event["object"] for event in events} == {"text_completion"}
    assert {event["id"] for event in events} == {"cmpl-ours"}
    assert [event["choices"][0]["text"] for event in events[:2]] == ["a", "b"]


def test_usage_is_seen_but_not_sent_unless_asked_for() -> None:
    rewriting = rewriter()

    out = rewriting.feed(child_events.chat_stream("a"))

    assert all(event["choices"] for event in events_of(out))
    assert rewriting.seen.usage == Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=2)


def test_reasoning_goes_under_both_names_on_first_and_later_events() -> None:
    out = rewriter().feed(
        child_events.delta(reasoning="hm")
        + child_events.delta(reasoning=" so")
        + child_events.delta(content="x")
    )

    assert deltas_of(out) == [
        {"role": "assistant", "reasoning": "hm", "reasoning_content": "hm"},
        {"role": "assistant", "reasoning": " so", "reasoning_content": " so"},
        {"role": "assistant", "content": "x"},
    ]


def test_generated_text_that_looks_like_an_event_is_left_alone() -> None:
    nasty = '"reasoning": data: [DONE]\n\n"choices": [ {"id": "chatcmpl-aaaa"} \\" \u2028 é'

    out = rewriter().feed(child_events.delta(content=nasty) + child_events.delta(content=nasty))

    assert [delta["content"] for delta in deltas_of(out)] == [nasty, nasty]


def test_comments_become_progress_and_are_not_passed_on() -> None:
    rewriting = rewriter()

    assert rewriting.feed(b": keepalive 512/2048\n\n: keepalive 1024/2048\n\n") == b""
    assert rewriting.seen.progress == (1024, 2048)
    assert not rewriting.seen.content


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (child_events.delta(), False),
        (child_events.delta(content=""), False),
        (child_events.delta(finish="stop"), False),
        (child_events.delta(tool_calls=[]), False),
        (child_events.text(""), False),
        (child_events.delta(content=" "), True),
        (child_events.delta(reasoning="x"), True),
        (child_events.delta(tool_calls=[child_events.tool_call("f", "{}")]), True),
        (child_events.text("x"), True),
    ],
)
def test_what_counts_as_content(event: bytes, content: bool) -> None:
    rewriting = rewriter()
    rewriting.feed(event)
    assert rewriting.seen.content is content


def test_only_done_is_done() -> None:
    rewriting = rewriter()
    rewriting.feed(child_events.delta(content="a") + child_events.delta(finish="stop") + child_events.usage())
    assert not rewriting.seen.done

    rewriting.feed(b"data: [DONE]\n\n")
    assert rewriting.seen.done


def test_nothing_leaves_after_done() -> None:
    rewriting = rewriter()
    stream = child_events.chat_stream("a")

    assert rewriting.feed(stream + child_events.delta(content="late")) == rewriter().feed(stream)
    assert rewriting.feed(child_events.delta(content="later")) == b""


def test_an_envelope_in_another_order_is_rewritten_all_the_same() -> None:
    def other(content: str) -> bytes:
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
        return child_events.event({"choices": [choice], **child_events.head()})

    out = rewriter().feed(other("a") + other("b"))

    assert [{key: event[key] for key in IDENTITY} for event in events_of(out)] == [IDENTITY, IDENTITY]


def test_an_event_of_two_megabytes() -> None:
    arguments = json.dumps({"content": "é" * 1_000_000})
    event = child_events.delta(tool_calls=[child_events.tool_call("write", arguments)])
    rewriting = rewriter()

    out = b"".join(rewriting.feed(piece) for piece in pieces_of(event, list(range(0, len(event), 65_536))))

    assert deltas_of(out)[0]["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    "block",
    [
        b"data: {}\n\n",
        b'data: {"error": "x"}\n\n',
        b'data: {"choices": [1]}\n\n',
        b'data: {"choices": []}\n\n',
        b'data: {"choices": [], "usage": {}}\n\n',
        b'data: {"choices": [{"delta": 5}]}\n\n',
        b"data: {\n\n",
        b"<html>\n\n",
    ],
)
def test_what_is_no_event_of_the_api_is_malformed(block: bytes) -> None:
    with pytest.raises(sse.Malformed):
        rewriter().feed(block)


TEXTS = st.text(alphabet='ab"\\\n:{é\u2028', max_size=12)
PARTS = st.fixed_dictionaries({}, optional={"content": TEXTS, "reasoning": TEXTS})


@given(st.lists(PARTS, max_size=8), st.lists(st.integers(min_value=0), max_size=12))
def test_fast_and_slow_path_and_any_split_agree(parts: list[dict[str, str]], cuts: list[int]) -> None:
    stream = (
        b"".join(child_events.delta(**part) for part in parts)
        + child_events.delta(finish="stop")
        + child_events.DONE
    )
    rewriting = rewriter()

    out = b"".join(rewriting.feed(piece) for piece in pieces_of(stream, cuts))

    one_by_one = b"".join(rewriter().feed(block + sse.END) for block in stream.split(sse.END) if block)
    assert events_of(out) == events_of(one_by_one)
    assert rewriting.seen.events == len(parts) + 1
