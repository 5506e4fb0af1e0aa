"""Remembered tools: the last ones, of a bounded number of conversations, for compactions only."""

from __future__ import annotations

from proxy.dialects.responses.forms import ResponsesForm, ToolForm
from proxy.dialects.responses.last_tools import LastTools, is_compaction

COMPACTION = "You are performing a CONTEXT CHECKPOINT COMPACTION."


def form(text: str = "hi", *tools: str, **fields: object) -> ResponsesForm:
    return ResponsesForm.model_validate(
        {"input": text, "tools": [{"type": "function", "name": name} for name in tools], **fields}
    )


def names(form: ResponsesForm) -> list[str | None]:
    return [tool.name for tool in form.tools or ()]


def test_the_last_tools_come_back_and_may_be_called() -> None:
    tools = LastTools()
    tools.restored(form("hi", "old"), "a")
    tools.restored(form("hi", "new", "other"), "a")
    restored = tools.restored(form(COMPACTION, tool_choice="none"), "a")
    assert names(restored) == ["new", "other"]
    assert restored.tool_choice is None, "`none` would take them out of the prompt again"


def test_only_a_compaction_without_tools_gets_them() -> None:
    tools = LastTools()
    tools.restored(form("hi", "ls"), "a")
    assert names(tools.restored(form("a title, please"), "a")) == []
    assert names(tools.restored(form(COMPACTION, "own"), "a")) == ["own"]
    assert names(tools.restored(form(COMPACTION), "b")) == []


def test_the_oldest_conversation_is_forgotten() -> None:
    tools = LastTools()
    for number in range(257):
        tools.restored(form("hi", "ls"), number)
    assert names(tools.restored(form(COMPACTION), 0)) == []
    assert names(tools.restored(form(COMPACTION), 1)) == ["ls"]


def test_tools_that_are_too_large_are_not_remembered() -> None:
    tools = LastTools()
    tools.restored(form("hi", "ls"), "a")
    tools.restored(form("hi", "x" * 300_000), "a")
    assert names(tools.restored(form(COMPACTION), "a")) == []


def test_tools_come_back_whole() -> None:
    tools = LastTools()
    inner = {
        "type": "function",
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"default": None}}},
    }
    given = form("hi").model_validate(
        {
            "input": "hi",
            "tools": [{"type": "namespace", "name": "n", "tools": [inner]}, {"type": "web_search"}],
        }
    )
    tools.restored(given, "a")
    assert tools.restored(form(COMPACTION), "a").tools == given.tools


def test_a_compaction_is_told_by_the_last_message_of_the_user() -> None:
    assert is_compaction(form(COMPACTION))
    assert not is_compaction(form("hi"))
    spoken = {"role": "user", "content": COMPACTION}
    assert not is_compaction(
        form().model_validate({"input": [spoken, {"role": "assistant", "content": "ok"}]})
    )
    assert not is_compaction(ResponsesForm.model_validate({"input": []}))
    assert ToolForm(type="function").name is None
