"""Pure. Types of a Messages request: what is read of it, and nothing that is only passed through."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Discriminator, Field, Tag

from proxy.dialects.loading import Form


def _blocks(value: Any) -> Any:
    """Content may be a string, a list of blocks or missing; a list is all of them. An object is its JSON."""
    if value is None:
        return []
    if type(value) is dict:
        value = orjson.dumps(value).decode()
    return [{"type": "text", "text": value}] if type(value) is str else value


class TextBlock(Form):
    """Text, of any role."""

    text: str


class ThinkingBlock(Form):
    """Reasoning of an earlier answer, sent back unchanged. Its signature is ours and says nothing."""

    thinking: str = ""


class ToolUseBlock(Form):
    """A tool call of an earlier answer."""

    id: str
    name: str
    input: Any = None


class ImageBlock(Form):
    """An image; `source` is base64 data, a URL, or a file that only Anthropic has."""

    source: dict[str, Any]


class DocumentBlock(Form):
    """A document. Only one whose source is text can be shown."""

    source: dict[str, Any]
    title: str | None = None


class ToolReferenceBlock(Form):
    """In the result of a tool search: the name of a deferred tool that was found."""

    tool_name: str


class UnknownBlock(Form):
    """A block of another kind."""

    type: Any = None


class ToolResultBlock(Form):
    """The result of a tool call."""

    tool_use_id: str
    content: Annotated[list[Block], BeforeValidator(_blocks)] = Field(default_factory=list)
    is_error: bool | None = None


_KINDS = frozenset({"text", "thinking", "tool_use", "tool_result", "image", "document", "tool_reference"})


def _kind(value: Any) -> str:
    kind = value.get("type") if type(value) is dict else None
    return kind if type(kind) is str and kind in _KINDS else "other"


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference")]
    | Annotated[UnknownBlock, Tag("other")],
    Discriminator(_kind),
]
Blocks = Annotated[list[Block], BeforeValidator(_blocks)]


class MessageEntry(Form):
    """One entry of `messages`. Claude Code also sends the role `system`, anywhere but first."""

    role: str
    content: Blocks = Field(default_factory=list)


class ToolEntry(Form):
    """One entry of `tools`. A type other than `custom` names a tool that Anthropic hosts or defines."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    defer_loading: bool | None = None

    @property
    def is_hosted(self) -> bool:
        """Whether the model would have to know the tool by itself: there is no schema to show it."""
        return self.type not in (None, "custom")


class MessagesForm(Form):
    """The request. What is passed on as it is (`temperature` and the like) is not listed."""

    messages: list[MessageEntry]
    system: Blocks = Field(default_factory=list)
    tools: list[ToolEntry] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


ToolResultBlock.model_rebuild()
