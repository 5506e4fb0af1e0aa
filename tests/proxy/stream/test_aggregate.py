"""Aggregation, against what generate_response in server.py makes of the same generation unstreamed.

tests/real/test_aggregate.py holds the same against the running server.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream import sse
from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.answer import Answer
from proxy.stream.child_stream import Usage
from tests.proxy.stream.test_sse import pieces_of
from tests.support import child_events


def an_answer(*, is_chat: bool = True) -> Answer:
    return Answer.new(unique="ours", created=42, model="served", is_chat=is_chat)


def aggregated(stream: bytes, *, is_chat: bool = True) -> dict[str, Any]:
    aggregator = Aggregator(an_answer(is_chat=is_chat))
    aggregator.feed(stream)
    assert aggregator.seen.done
    body: dict[str, Any] = json.loads(aggregator.body())
    return body


def test_a_chat_answer() -> None:
    assert aggregated(child_events.chat_stream("Hel", "lo", finish="length")) == {
        "id": "chatcmpl-ours",
        "system_fingerprint": "0.32.2-0.32.4-Linux",
        "object": "chat.completion",
        "model": "served",
        "created": 42,
        "choices": [
            {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "Hello"}}
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def test_no_text_is_null_in_chat_and_empty_in_text() -> None:
    empty = child_events.usage() + child_events.DONE
    assert aggregated(child_events.delta(finish="stop") + empty)["choices"][0]["message"]["content"] is None
    assert aggregated(child_events.text("", finish="stop") + empty, is_chat=False)["choices"][0] == {
        "index": 0,
        "finish_reason": "stop",
        "text": "",
    }


def test_tool_calls_lose_their_index() -> None:
    calls = [child_events.tool_call("a", "{}"), child_events.tool_call("b", '{"x": 1}', index=1)]
    stream = child_events.delta(tool_calls=calls[:1]) + child_events.delta(
        tool_calls=calls[1:], finish="tool_calls"
    )

    choice = aggregated(stream + child_events.usage() + child_events.DONE)["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{k: v for k, v in call.items() if k != "index"} for call in calls],
    }


def test_reasoning_goes_under_both_names() -> None:
    stream = (
        child_events.delta(reasoning="I ")
        + child_events.delta(reasoning="think")
        + child_events.chat_stream("x")
    )
    assert aggregated(stream)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "x",
        "reasoning": "I think",
        "reasoning_content": "I think",
    }


def test_an_end_without_done_is_not_complete() -> None:
    aggregator = Aggregator(an_answer())
    aggregator.feed(child_events.chat_stream("a").removesuffix(child_events.DONE))
    aggregator.end()
    assert not aggregator.seen.done


@given(st.lists(st.text(alphabet='ab"\\\né', min_size=1)), st.lists(st.integers(min_value=0), max_size=12))
def test_any_split_gives_the_whole_text(texts: list[str], cuts: list[int]) -> None:
    aggregator = Aggregator(an_answer())

    for piece in pieces_of(child_events.chat_stream(*texts), cuts):
        aggregator.feed(piece)

    body = json.loads(aggregator.body())
    assert body["choices"][0]["message"]["content"] == ("".join(texts) or None)
    assert aggregator.seen.usage == Usage(7, len(texts) + 1, 2)


EVENTS = st.one_of(
    st.builds(child_events.delta, content=st.text()),
    st.builds(child_events.delta, content=st.text(), reasoning=st.text()),
    st.builds(child_events.delta, content=st.text(), finish=st.just("length")),
    st.builds(
        lambda text: child_events.delta(content=text, tool_calls=[child_events.tool_call("a", "{}")]),
        st.text(),
    ),
    st.just(child_events.delta(content="a").replace(b'"a"', b'"\\ud800"')),
)


@given(st.lists(EVENTS, max_size=20))
def test_events_of_text_alone_are_read_as_all_others_are(events: list[bytes]) -> None:
    quick, slow = Aggregator(an_answer()), Aggregator(an_answer())
    quick.feed(b"".join(events) + child_events.usage())
    for event in (*events, child_events.usage()):
        slow._before = None  # forgets what it has learned
        slow.feed(event)
    assert quick.body() == slow.body()
    assert quick.seen == slow.seen


@pytest.mark.parametrize("between", [('"a', 'b"'), ('"a", "b"', ""), ('["a"', '"b"]'), ("", '"a", "b"')])
def test_strings_that_span_events_are_no_text(between: tuple[str, str]) -> None:
    aggregator = Aggregator(an_answer())
    aggregator.feed(child_events.delta(content="learn"))
    with pytest.raises(sse.Malformed):
        aggregator.feed(
            b"".join(child_events.delta(content="@").replace(b'"@"', each.encode()) for each in between)
        )


def whole_body(**choice: Any) -> bytes:
    counts = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    head = {**child_events.head(), "object": "chat.completion"}
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return json.dumps({**head, "choices": choices, "usage": counts}).encode()


def test_events_of_text_alone_pass_through_as_if_fed() -> None:
    first, *others = [child_events.delta(content=f"{number} ") for number in range(4)]
    fed, passed = Aggregator(an_answer()), Aggregator(an_answer())
    assert not passed.pass_through(first), "how such events begin is not known yet"
    for each in (fed, passed):
        each.feed(first)
    fed.feed(b"".join(others))
    assert passed.pass_through(b"".join(others))
    assert passed.seen == fed.seen
    assert passed.body() == fed.body()


@pytest.mark.parametrize(
    "data",
    [
        child_events.delta(content="a")[:-1],
        child_events.delta(content="a") + b"data",
        child_events.delta(content="a") + child_events.delta(reasoning="b"),
        child_events.delta(content="a") + child_events.delta(finish="stop"),
        child_events.delta(content="a") + child_events.usage(),
        child_events.delta(content="a") + child_events.DONE,
        child_events.delta(content=7),
    ],
)
def test_anything_else_does_not_pass_and_changes_nothing(data: bytes) -> None:
    one = Aggregator(an_answer())
    one.feed(child_events.delta(content="first"))
    before, text = replace(one.seen), one.body()
    assert not one.pass_through(data)
    assert (one.seen, one.body()) == (before, text)


def test_an_unstreamed_body_gets_our_identity() -> None:
    whole = WholeBody(an_answer())
    logprobs = {"content": [{"id": 5, "logprob": -math.inf}]}
    body = whole_body(message={"role": "assistant", "content": "x", "reasoning": "r"}, logprobs=logprobs)
    for piece in pieces_of(body, [10, 100]):
        whole.feed(piece)

    whole.end()

    answer = json.loads(whole.body())
    assert (answer["id"], answer["model"], answer["created"]) == ("chatcmpl-ours", "served", 42)
    assert answer["choices"][0]["message"]["reasoning_content"] == "r"
    assert answer["choices"][0]["logprobs"] == {"content": [{"id": 5, "logprob": -9999.0}]}
    assert whole.seen.done
    assert whole.seen.usage == Usage(7, 1, None)


def test_a_cut_unstreamed_body_is_malformed() -> None:
    whole = WholeBody(an_answer())
    whole.feed(whole_body(message={"role": "assistant", "content": "x"})[:-1])

    with pytest.raises(sse.Malformed):
        whole.end()

    assert not whole.seen.done
