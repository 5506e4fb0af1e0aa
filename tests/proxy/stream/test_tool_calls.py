"""Tool calls reach the client whole or not at all: what is mended in the child's own events."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import orjson
import pytest

from proxy.stream.tool_calls import (
    UNREADABLE,
    BodyCalls,
    CallLost,
    CallMend,
    StreamCalls,
    mended_arguments,
)
from tests.support import child_events
from tests.support.relay_stand import events_of

CALL = child_events.tool_call("get_weather", '{"city": "Paris"}')


def a_stream(mends: Counter[CallMend] | None = None, **options: Any) -> StreamCalls:
    return StreamCalls(Counter() if mends is None else mends, **{"is_chat": True, **options})


def _last(data: bytes) -> dict[str, Any]:
    choice: dict[str, Any] = events_of(data)[-1]["choices"][0]
    return choice


def test_good_calls_and_text_stay_byte_for_byte() -> None:
    mends: Counter[CallMend] = Counter()
    calls = a_stream(mends)
    stream = [
        b": keepalive 1/2\n\n",
        child_events.delta(content='the words "tool_calls" and \\"tool_calls\\"'),
        child_events.delta(tool_calls=[CALL]),
        child_events.delta(finish="tool_calls"),
        child_events.usage(),
        child_events.DONE,
    ]
    assert [calls.feed(data) for data in stream] == stream
    assert calls.sent == 1
    assert not mends


@pytest.mark.parametrize("size", [1, 7, 100])
def test_events_in_pieces_come_whole(size: int) -> None:
    calls = a_stream()
    stream = child_events.delta(content="x") + child_events.delta(tool_calls=[CALL], finish="tool_calls")
    pieces = [calls.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    assert b"".join(pieces) == stream
    assert all(piece.endswith(b"\n\n") for piece in pieces if piece)


def test_what_is_plain_is_only_whole_events_without_calls() -> None:
    calls = a_stream()
    assert calls.is_plain(child_events.delta(content="x"))
    assert not calls.is_plain(child_events.delta(content="x")[:-1])
    assert not calls.is_plain(child_events.delta(tool_calls=[CALL]))
    calls.feed(b"data: half")
    assert not calls.is_plain(b" of it\n\n")


@pytest.mark.parametrize(("before", "text"), [("", UNREADABLE), ("Let me see.", f"\n\n{UNREADABLE}")])
def test_an_answer_without_its_call_stops_with_a_text(before: str, text: str) -> None:
    mends: Counter[CallMend] = Counter()
    calls = a_stream(mends)
    if before:
        calls.feed(child_events.delta(content=before))
    choice = _last(calls.feed(child_events.delta(finish="tool_calls")))
    assert choice["finish_reason"] == "stop"
    assert choice["delta"]["content"] == text
    assert mends == {CallMend.UNREADABLE: 1}


def test_another_answer_is_asked_for_where_that_is_possible() -> None:
    calls = a_stream(may_ask_again=lambda: True)
    with pytest.raises(CallLost):
        calls.feed(child_events.delta(content="x") + child_events.delta(finish="tool_calls"))


def test_one_of_two_calls_is_enough() -> None:
    calls = a_stream(may_ask_again=lambda: True)
    last = child_events.delta(finish="tool_calls", tool_calls=[CALL])
    assert calls.feed(last) == last


def test_a_text_completion_never_ends_with_calls() -> None:
    choice = {"index": 0, "finish_reason": "tool_calls", "text": "x"}
    calls = a_stream(is_chat=False)
    last = _last(calls.feed(child_events.event({**child_events.head(chat=False), "choices": [choice]})))
    assert (last["finish_reason"], last["text"]) == ("stop", "x")


def test_a_call_without_a_name_is_left_out_and_the_others_are_numbered_anew() -> None:
    mends: Counter[CallMend] = Counter()
    calls = a_stream(mends)
    nameless = {"function": {"arguments": "{}"}, "type": "function", "id": "call-0", "index": 0}
    second = {**CALL, "index": 1}
    delta = _last(calls.feed(child_events.delta(tool_calls=[nameless, second])))["delta"]
    assert [call["index"] for call in delta["tool_calls"]] == [0]
    assert mends == {CallMend.UNNAMED: 1}


def test_an_id_that_is_no_text_becomes_one() -> None:
    calls = a_stream()
    delta = _last(calls.feed(child_events.delta(tool_calls=[{**CALL, "id": 1}])))["delta"]
    assert delta["tool_calls"][0]["id"] == "1"


@pytest.mark.parametrize(
    ("given", "mended", "mends"),
    [
        ('{"city": "Paris"}', '{"city": "Paris"}', {}),
        ("[1, 2]", "[1, 2]", {}),
        ('"plain"', '"plain"', {}),
        ('"[1]"', '"[1]"', {}),
        ("not JSON", "not JSON", {}),
        (json.dumps('{"city": "Paris"}'), '{"city": "Paris"}', {CallMend.UNQUOTED: 1}),
        (json.dumps(json.dumps('{"a": 1}')), '{"a": 1}', {CallMend.UNQUOTED: 1}),
        ('{"a": NaN, "b": [-Infinity]}', '{"a": null, "b": [null]}', {CallMend.NUMBER: 2}),
        ('{"a": 123456789012345678901234567890}', '{"a": 123456789012345678901234567890}', {}),
    ],
)
def test_arguments(given: str, mended: str, mends: dict[CallMend, int]) -> None:
    counts: Counter[CallMend] = Counter()
    assert mended_arguments(given, counts) == mended
    assert counts == mends


def test_the_conclusion_of_an_answer_that_was_choked_on() -> None:
    calls = a_stream()
    calls.feed(child_events.delta(content="Let me see."))
    *_, last, usage = events_of(calls.conclusion({"id": "x"}, {"prompt_tokens": 7}))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"]["content"].strip() == UNREADABLE
    assert usage["usage"] == {"prompt_tokens": 7}


def test_the_conclusion_after_a_call_that_was_sent_lets_it_be_run() -> None:
    mends: Counter[CallMend] = Counter()
    calls = a_stream(mends)
    calls.feed(child_events.delta(tool_calls=[CALL]))
    stream = calls.conclusion({"id": "x"}, {})
    assert events_of(stream)[0]["choices"][0]["finish_reason"] == "tool_calls"
    assert stream.endswith(child_events.DONE)
    assert not mends


def _body(message: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message, **more}
    return json.dumps({**child_events.head(), "choices": [choice]}).encode()


def _through(body: bytes, mends: Counter[CallMend] | None = None, **options: Any) -> dict[str, Any]:
    calls = BodyCalls(Counter() if mends is None else mends, is_chat=True, **options)
    assert not calls.is_plain(body)
    assert calls.feed(body[:50]) + calls.feed(body[50:]) == b""
    choice: dict[str, Any] = json.loads(calls.end())["choices"][0]
    return choice


def test_a_whole_body_is_mended_alike() -> None:
    mends: Counter[CallMend] = Counter()
    call = child_events.tool_call("f", json.dumps('{"a": 1}'))
    choice = _through(_body({"role": "assistant", "tool_calls": [call]}), mends)
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert mends == {CallMend.UNQUOTED: 1}

    lost = _through(
        _body({"role": "assistant", "content": "x"}, logprobs={"content": [{"logprob": -float("inf")}]})
    )
    assert (lost["finish_reason"], lost["message"]["content"]) == ("stop", f"x\n\n{UNREADABLE}")
    with pytest.raises(CallLost):
        _through(_body({"role": "assistant"}), may_ask_again=lambda: True)


def test_a_whole_body_in_place_of_one_that_was_choked_on() -> None:
    body = BodyCalls(Counter(), is_chat=True).conclusion({"id": "x"}, {"prompt_tokens": 7})
    whole = orjson.loads(body)
    assert whole["choices"][0]["message"]["content"] == UNREADABLE
    assert whole["usage"] == {"prompt_tokens": 7}
