"""Output items: what a call is in each kind, and that each item ends as it was told."""

from __future__ import annotations

from proxy.dialects.child_parts import CallPart
from proxy.dialects.responses.forms import ToolForm
from proxy.dialects.responses.items import CallOutput, MessageOutput, ReasoningOutput
from proxy.dialects.responses.tools import FunctionTable

TABLE = FunctionTable.of([ToolForm(type="custom", name="patch"), ToolForm(type="function", name="ls")])


def test_a_message_collects_its_texts() -> None:
    message = MessageOutput("u", 1)
    assert message.delta("a")[1]["delta"] == "a"
    message.delta("b")
    assert message.done()["content"][0]["text"] == "ab"
    assert [kind for kind, _ in message.end()][-1] == "response.output_item.done"


def test_reasoning_is_open_text() -> None:
    reasoning = ReasoningOutput("u", 0)
    reasoning.delta("a")
    assert reasoning.done()["content"] == [{"type": "reasoning_text", "text": "a"}]
    assert reasoning.done()["summary"] == []


def test_a_call_without_an_id_gets_one_that_no_other_answer_has() -> None:
    assert CallOutput("u", 2, CallPart("", "ls", "{}"), TABLE).done()["call_id"] == "call_u_2"


def test_a_function_that_was_not_offered_is_still_called_by_its_name() -> None:
    item = CallOutput("u", 0, CallPart("c", "invented", "{}"), TABLE).done()
    assert (item["type"], item["name"]) == ("function_call", "invented")


def test_the_events_of_a_custom_call_are_of_its_input() -> None:
    events = list(CallOutput("u", 0, CallPart("c", "patch", '{"input": "x"}'), TABLE).events())
    assert [kind.removeprefix("response.") for kind, _ in events] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    assert events[1][1]["delta"] == events[2][1]["input"] == "x"
