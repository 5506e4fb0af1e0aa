"""Messages answers: whatever the child sends, the protocol is kept and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.messages.events import SIGNATURE, MessageForm
from proxy.errors import InvalidRequest, PromptTooLong, Unavailable, UpstreamFailed
from proxy.stream import sse
from proxy.stream.aggregate import Aggregator
from proxy.stream.answer import Answer
from tests.proxy.stream.test_sse import pieces_of
from tests.support import child_events
from tests.support.child_streams import ChildStream, as_json, child_streams
from tests.support.messages_protocol import MessagesClient, events_of


def answer() -> Answer:
    return Answer(id="msg_ours", created=42, model="served", is_chat=True)


def form() -> MessageForm:
    return MessageForm(answer(), 7)


def streamed(stream: bytes) -> MessagesClient:
    one = form()
    return MessagesClient().read(one.opening() + one.writer().feed(stream))


def whole(stream: bytes) -> dict[str, Any]:
    aggregator = Aggregator(answer())
    aggregator.feed(stream)
    value: dict[str, Any] = json.loads(form().whole(aggregator.body()))
    return value


def texts(message: dict[str, Any], kind: str, field: str) -> str:
    return as_json("".join(block[field] for block in message["content"] if block["type"] == kind))


@given(child_streams(), st.lists(st.integers(min_value=0), max_size=12))
def test_any_stream_in_any_pieces_is_a_valid_message(stream: ChildStream, cuts: list[int]) -> None:
    one = form()
    writer = one.writer()
    client = MessagesClient().read(one.opening())
    for piece in pieces_of(stream.data, cuts):
        passed = writer.pass_through(piece)
        client.read(writer.feed(piece) if passed is None else passed)
        if client.stopped:
            break
        client.read(one.keepalive("queued", empty_event=False))
    assert client.stopped
    assert writer.seen.done
    assert client.message is not None
    assert texts(client.message, "text", "text") == stream.whole_text
    assert texts(client.message, "thinking", "thinking") == stream.whole_reasoning
    called = [block["name"] for block in client.message["content"] if block["type"] == "tool_use"]
    assert called == [name for name, _ in stream.calls]


@given(child_streams())
def test_any_stream_can_fail_after_any_event(stream: ChildStream) -> None:
    for end in range(len(stream.events)):  # all but [DONE], after which nothing can fail
        one = form()
        sent = one.opening() + one.writer().feed(b"".join(stream.events[:end]))
        client = MessagesClient().read(sent + one.failure(Unavailable("died")))
        assert client.error is not None
        assert not client.stopped


def test_a_stream_may_be_cut_at_every_byte() -> None:
    calls = [child_events.tool_call("ls", '{"a": 1}')]
    stream = child_events.delta(reasoning="hm") + child_events.delta(content="a", tool_calls=calls)
    stream += child_events.chat_stream("x", "y")
    expected = streamed(stream).message
    for cut in range(len(stream)):
        one = form()
        writer = one.writer()
        client = MessagesClient().read(one.opening() + writer.feed(stream[:cut]) + writer.feed(stream[cut:]))
        assert client.message == expected


@given(child_streams())
def test_whole_and_streamed_say_the_same(stream: ChildStream) -> None:
    if not any(b'"usage"' in event for event in stream.events):
        return
    message, body = streamed(stream.data).message, whole(stream.data)
    assert message is not None
    for kind, field in (("text", "text"), ("thinking", "thinking")):
        assert texts(message, kind, field) == texts(body, kind, field)
    assert {k: v for k, v in message.items() if k != "content"} == {
        k: v for k, v in body.items() if k != "content"
    }
    for block in body["content"]:
        assert block["type"] != "tool_use" or type(block["input"]) is dict


def test_a_whole_turn_event_by_event() -> None:
    calls = [child_events.tool_call("ls", '{"path": "."}'), child_events.tool_call("ls", "{}", index=1)]
    one = form()
    stream = one.opening() + one.writer().feed(
        child_events.delta(reasoning="hm")
        + child_events.delta(content="looking")
        + child_events.delta(tool_calls=calls)
        + child_events.delta(finish="tool_calls")
        + child_events.usage(prompt=7, completion=5, cached=4)
        + child_events.DONE
    )
    start, *events, delta, stop = events_of(stream)
    assert start["message"]["id"] == "msg_ours"
    assert start["message"]["usage"]["input_tokens"] == 7, "exact before the stream"
    assert [(e["type"].removeprefix("content_block_"), e["index"]) for e in events] == [
        ("start", 0), ("delta", 0), ("delta", 0), ("stop", 0),
        ("start", 1), ("delta", 1), ("stop", 1),
        ("start", 2), ("delta", 2), ("stop", 2),
        ("start", 3), ("delta", 3), ("stop", 3),
    ]  # fmt: skip
    assert events[2]["delta"] == {"type": "signature_delta", "signature": SIGNATURE}
    assert events[7]["content_block"] == {"type": "tool_use", "id": "call-0", "name": "ls", "input": {}}
    assert events[8]["delta"] == {"type": "input_json_delta", "partial_json": '{"path": "."}'}
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"] == {
        "input_tokens": 3,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "output_tokens": 5,
    }
    assert stop == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("finish", "called", "reason"),
    [
        ("stop", False, "end_turn"),
        ("length", False, "max_tokens"),
        ("length", True, "max_tokens"),
        ("tool_calls", True, "tool_use"),
        ("tool_calls", False, "end_turn"),  # the server dropped a call that it could not parse
        ("stop", True, "tool_use"),
    ],
)
def test_stop_reasons(finish: str, called: bool, reason: str) -> None:
    calls = {"tool_calls": [child_events.tool_call("ls", "{}")]} if called else {}
    stream = child_events.delta(content="a", **calls) + child_events.delta(finish=finish)
    stream += child_events.usage() + child_events.DONE
    message = streamed(stream).message
    assert message is not None
    assert message["stop_reason"] == whole(stream)["stop_reason"] == reason


@pytest.mark.parametrize(("cached", "new"), [(None, 7), (0, 7), (4, 3), (7, 1), (9, 1)])
def test_tokens_add_up_to_the_prompt_and_input_is_never_nothing(cached: int | None, new: int) -> None:
    stream = child_events.delta(content="a") + child_events.usage(prompt=7, cached=cached) + child_events.DONE
    message = streamed(stream).message
    assert message is not None
    assert message["usage"]["input_tokens"] == new
    assert message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"] == 7


def test_a_child_that_reports_no_usage_leaves_the_count_of_ours() -> None:
    message = streamed(child_events.delta(content="a") + child_events.DONE).message
    assert message is not None
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (7, 1)


def test_a_call_without_an_id_gets_one_that_no_other_answer_has() -> None:
    call = {**child_events.tool_call("ls", "{}"), "id": None}
    stream = child_events.delta(tool_calls=[call]) + child_events.usage() + child_events.DONE
    message = streamed(stream).message
    assert message is not None
    assert message["content"][0]["id"] == whole(stream)["content"][0]["id"] == "toolu_ours_0"


def test_a_run_of_texts_passes_as_one_delta() -> None:
    writer = form().writer()
    run = b"".join(child_events.delta(content=text) for text in "abc")
    assert writer.pass_through(run) is None, "no block is open yet"
    writer.feed(child_events.delta(content="first"))
    passed = writer.pass_through(run)
    assert passed is not None
    (event,) = events_of(passed)
    assert event["delta"] == {"type": "text_delta", "text": "abc"}
    assert writer.seen.events == 4


def test_nothing_empty_passes_since_an_empty_chunk_would_end_the_response() -> None:
    writer = form().writer()
    writer.feed(child_events.delta(content="first"))
    assert writer.pass_through(child_events.delta(content="")) is None


def test_an_attempt_that_showed_nothing_leaves_no_trace_in_the_next() -> None:
    one = form()
    opening = one.opening()
    assert one.writer().feed(b": keepalive 1/2\n\n" + child_events.delta()) == b""
    client = MessagesClient().read(opening + one.writer().feed(child_events.chat_stream("a")))
    assert client.message is not None
    assert client.message["content"] == [{"type": "text", "text": "a"}]


def test_a_malformed_stream_raises() -> None:
    with pytest.raises(sse.Malformed):
        form().writer().feed(b"data: {\n\n")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unavailable("died"), "overloaded_error"),
        (UpstreamFailed("cut"), "overloaded_error"),
        (InvalidRequest("no"), "invalid_request_error"),
        (PromptTooLong(prompt_tokens=9, max_tokens=1, limit=8), "invalid_request_error"),
    ],
)
def test_a_failure_of_ours_makes_the_client_stream_again(error: Any, kind: str) -> None:
    (event,) = events_of(form().failure(error))
    assert event["error"] == {"type": kind, "message": error.message}


def test_a_sign_of_life_is_an_event_with_a_comment_for_people() -> None:
    sign = form().keepalive("prefill 3/7", empty_event=False)
    assert sign.startswith(b": prefill 3/7\n\n")
    assert events_of(sign) == [{"type": "ping"}]
