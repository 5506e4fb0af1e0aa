"""Responses answers: whatever the child sends, the protocol is kept and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.responses.events import ResponseForm
from proxy.dialects.responses.forms import ToolForm
from proxy.dialects.responses.tools import FunctionTable
from proxy.errors import Cancelled, InvalidRequest, PromptTooLong, Unavailable
from proxy.stream.aggregate import Aggregator
from proxy.stream.answer import Answer
from tests.proxy.stream.test_sse import pieces_of
from tests.support import child_events
from tests.support.child_streams import ChildStream, as_json, child_streams
from tests.support.messages_protocol import events_of
from tests.support.responses_protocol import ResponsesClient

TABLE = FunctionTable.of(
    [
        ToolForm(type="custom", name="apply_patch"),
        ToolForm(type="namespace", name="agents", tools=[ToolForm(type="function", name="spawn_agent")]),
    ]
)


def answer() -> Answer:
    return Answer(id="resp_ours", created=42, model="served", is_chat=True)


def form(*, is_length_set: bool = False) -> ResponseForm:
    return ResponseForm(answer(), 7, table=TABLE, is_length_set=is_length_set)


def streamed(stream: bytes, *, is_length_set: bool = False) -> ResponsesClient:
    one = form(is_length_set=is_length_set)
    return ResponsesClient().read(one.opening() + one.writer().feed(stream))


def whole(stream: bytes, *, is_length_set: bool = False) -> dict[str, Any]:
    aggregator = Aggregator(answer())
    aggregator.feed(stream)
    value: dict[str, Any] = json.loads(form(is_length_set=is_length_set).whole(aggregator.body()))
    return value


def texts(output: list[dict[str, Any]], kind: str) -> str:
    return as_json("".join(item["content"][0]["text"] for item in output if item["type"] == kind))


@given(child_streams(), st.lists(st.integers(min_value=0), max_size=12))
def test_any_stream_in_any_pieces_is_a_valid_response(stream: ChildStream, cuts: list[int]) -> None:
    one = form()
    writer = one.writer()
    client = ResponsesClient().read(one.opening())
    for piece in pieces_of(stream.data, cuts):
        passed = writer.pass_through(piece)
        client.read(writer.feed(piece) if passed is None else passed)
        if client.ended:
            break
        client.read(one.keepalive("queued", empty_event=False))
    assert client.ended
    assert client.response is not None
    assert client.response["status"] == "completed"
    assert texts(client.output, "message") == stream.whole_text
    assert texts(client.output, "reasoning") == stream.whole_reasoning
    called = [item["name"] for item in client.output if item["type"].endswith("_call")]
    assert called == [name for name, _ in stream.calls]


@given(child_streams())
def test_any_stream_can_fail_after_any_event(stream: ChildStream) -> None:
    for end in range(len(stream.events)):  # all but [DONE], after which nothing can fail
        one = form()
        sent = one.opening() + one.writer().feed(b"".join(stream.events[:end]))
        client = ResponsesClient().read(sent + one.failure(Unavailable("died")))
        assert client.ended
        assert client.response is not None
        assert client.response["error"]["code"] == "server_error"


def test_a_stream_may_be_cut_at_every_byte() -> None:
    calls = [
        child_events.tool_call("spawn_agent", '{"a": 1}'),
        child_events.tool_call("apply_patch", "{}", index=1),
    ]
    stream = child_events.delta(reasoning="hm") + child_events.delta(content="a", tool_calls=calls)
    stream += child_events.chat_stream("x", "y")
    expected = streamed(stream).response
    for cut in range(len(stream)):
        one = form()
        writer = one.writer()
        client = ResponsesClient().read(one.opening() + writer.feed(stream[:cut]) + writer.feed(stream[cut:]))
        assert client.response == expected


@given(child_streams(), st.booleans())
def test_whole_and_streamed_say_the_same(stream: ChildStream, is_length_set: bool) -> None:
    if not any(b'"usage"' in event for event in stream.events):
        return
    response = streamed(stream.data, is_length_set=is_length_set).response
    body = whole(stream.data, is_length_set=is_length_set)
    assert response is not None
    for kind in ("message", "reasoning"):
        assert texts(response["output"], kind) == texts(body["output"], kind)
    assert {**response, "output": []} == {**body, "output": []}


def test_a_whole_turn_event_by_event() -> None:
    calls = [child_events.tool_call("ls", '{"path": "."}')]
    one = form()
    stream = one.opening() + one.writer().feed(
        child_events.delta(reasoning="hm")
        + child_events.delta(content="looking")
        + child_events.delta(tool_calls=calls)
        + child_events.delta(finish="tool_calls")
        + child_events.usage(prompt=7, completion=5, cached=4)
        + child_events.DONE
    )
    events = events_of(stream)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert [item["id"] for item in response["output"]] == ["rs_ours_0", "msg_ours_1", "fc_ours_2"]
    assert response["output"][2] == {
        "type": "function_call",
        "id": "fc_ours_2",
        "call_id": "call-0",
        "name": "ls",
        "arguments": '{"path": "."}',
        "status": "completed",
    }
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }


def test_a_call_in_a_namespace_says_so() -> None:
    call = child_events.tool_call("spawn_agent", "{}")
    (item,) = streamed(child_events.delta(tool_calls=[call]) + child_events.DONE).output
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "spawn_agent", "agents")


def test_a_call_of_a_custom_tool_is_one_again() -> None:
    call = child_events.tool_call("apply_patch", '{"input": "*** Begin Patch"}')
    (item,) = streamed(child_events.delta(tool_calls=[call]) + child_events.DONE).output
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin Patch")
    assert "arguments" not in item


def test_a_compaction_that_was_given_tools_for_its_prefix_has_no_calls() -> None:
    one = ResponseForm(answer(), 7, table=TABLE, is_length_set=False, drops_calls=True)
    calls = [child_events.tool_call("spawn_agent", "{}")]
    stream = child_events.delta(content="so far", tool_calls=calls) + child_events.DONE
    (item,) = ResponsesClient().read(one.opening() + one.writer().feed(stream)).output
    assert item["type"] == "message"


@pytest.mark.parametrize(("is_length_set", "status"), [(False, "completed"), (True, "incomplete")])
def test_the_end_by_length_is_told_to_those_who_set_one(is_length_set: bool, status: str) -> None:
    stream = child_events.chat_stream("a", finish="length")
    client = streamed(stream, is_length_set=is_length_set)
    assert client.response is not None
    assert client.response["status"] == status
    assert (client.response["incomplete_details"] is not None) == is_length_set


def test_a_replay_goes_on_under_the_same_ids_and_numbers() -> None:
    one = form()
    opening = one.opening()
    assert one.writer().feed(b": keepalive 1/2\n\n" + child_events.delta()) == b""
    sign = one.keepalive("restarting", empty_event=False)
    client = ResponsesClient().read(opening + sign + one.writer().feed(child_events.chat_stream("a")))
    assert client.output[0]["id"] == "msg_ours_0"
    assert client.ended


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("died"), "server_error"),
        (PromptTooLong(prompt_tokens=9, max_tokens=1, limit=8), "context_length_exceeded"),
        (InvalidRequest("no"), "invalid_prompt"),
        (Cancelled(), "invalid_prompt"),
    ],
)
def test_a_failure_has_the_code_that_the_client_acts_on(error: Any, code: str) -> None:
    one = form()
    client = ResponsesClient().read(one.opening() + one.failure(error))
    assert client.response is not None
    assert client.response["error"] == {"code": code, "message": error.message}


def test_finished_items_stay_in_a_failure() -> None:
    one = form()
    stream = one.opening() + one.writer().feed(
        child_events.delta(content="a") + child_events.delta(reasoning="b")
    )
    client = ResponsesClient().read(stream + one.failure(Unavailable("died")))
    assert [item["type"] for item in client.output] == ["message"]


def test_a_sign_of_life_is_an_event() -> None:
    one = form()
    client = ResponsesClient().read(one.opening())
    sign = one.keepalive("prefill 3/7", empty_event=False)
    assert sign.startswith(b": prefill 3/7\n\n")
    client.read(sign)
    assert client.response is not None
    assert client.response["status"] == "in_progress"
