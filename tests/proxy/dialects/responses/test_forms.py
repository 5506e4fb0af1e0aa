"""Forms of Responses: every spelling of content and items, and kinds that are not known."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.responses.forms import (
    CallItem,
    MessageItem,
    OtherContent,
    OtherItem,
    OutputItem,
    ReasoningItem,
    ResponsesForm,
    TextContent,
)


def first(item: dict[str, Any]) -> Any:
    return ResponsesForm.model_validate({"input": [item]}).input[0]


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"role": "user", "content": "a"}, MessageItem),
        ({"type": "message", "role": "user"}, MessageItem),
        ({"type": "reasoning", "summary": None}, ReasoningItem),
        ({"type": "function_call", "name": "f", "call_id": "c"}, CallItem),
        ({"type": "custom_tool_call_output", "call_id": "c", "output": "x"}, OutputItem),
        ({"type": "compaction", "encrypted_content": "x"}, OtherItem),
        ({"type": None}, OtherItem),
        ({"type": ["message"]}, OtherItem),
    ],
)
def test_items_by_their_type(item: dict[str, Any], kind: type) -> None:
    assert type(first(item)) is kind


def test_content_is_a_list_whatever_it_was() -> None:
    assert first({"role": "user", "content": "a"}).content == [TextContent(text="a")]
    assert first({"role": "user", "content": None}).content == []
    assert first({"role": "user", "content": [{"type": "odd"}]}).content == [OtherContent(type="odd")]
