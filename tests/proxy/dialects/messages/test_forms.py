"""Forms of Messages: every spelling of content, and kinds that are not known."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.messages.forms import (
    MessagesForm,
    TextBlock,
    ThinkingBlock,
    ToolEntry,
    ToolResultBlock,
    UnknownBlock,
)


def content(value: Any) -> Any:
    return MessagesForm.model_validate({"messages": [{"role": "user", "content": value}]}).messages[0].content


@pytest.mark.parametrize(
    ("value", "blocks"),
    [
        ("a", [TextBlock(text="a")]),
        (None, []),
        ([{"type": "thinking", "thinking": "t", "signature": "s"}], [ThinkingBlock(thinking="t")]),
        (
            [{"type": "tool_result", "tool_use_id": "t", "content": "a"}],
            [ToolResultBlock.model_validate({"tool_use_id": "t", "content": "a"})],
        ),
        ([{"type": "server_tool_use", "id": "x"}], [UnknownBlock(type="server_tool_use")]),
        ([{"type": ["text"]}], [UnknownBlock(type=["text"])]),
    ],
)
def test_content_is_a_list_of_blocks_whatever_it_was(value: Any, blocks: list[Any]) -> None:
    assert content(value) == blocks


@pytest.mark.parametrize(("kind", "is_hosted"), [(None, False), ("custom", False), ("bash_20250124", True)])
def test_a_tool_with_a_type_of_its_own_is_not_ours_to_offer(kind: str | None, is_hosted: bool) -> None:
    assert ToolEntry(type=kind, name="t").is_hosted == is_hosted
