"""Pure. Types of a Responses request: what is read of it, and nothing that is only passed through."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Discriminator, Field, Tag

from proxy.dialects.loading import Form


def _parts(value: Any) -> Any:
    """Content may be a string, a list of parts, or missing; a list is all of them. An object is its JSON."""
    if value is None:
        return []
    if type(value) is dict:
        value = orjson.dumps(value).decode()
    return [{"type": "input_text", "text": value}] if type(value) is str else value


class TextContent(Form):
    """`input_text`, `output_text`, and the texts of reasoning."""

    text: str


class RefusalContent(Form):
    """A refusal of the assistant, which is text too."""

    refusal: str


class ImageContent(Form):
    """`input_image`: a URL, or the id of a file that only OpenAI has."""

    image_url: Any = None


class OtherContent(Form):
    """A part of another kind."""

    type: Any = None


_PART_KINDS = {
    "input_text": "text", "output_text": "text", "text": "text", "reasoning_text": "text",
    "summary_text": "text", "refusal": "refusal", "input_image": "image",
}  # fmt: skip


def _part_kind(value: Any) -> str:
    kind = value.get("type") if type(value) is dict else None
    return _PART_KINDS.get(kind, "other") if type(kind) is str else "other"


Content = Annotated[
    Annotated[TextContent, Tag("text")]
    | Annotated[RefusalContent, Tag("refusal")]
    | Annotated[ImageContent, Tag("image")]
    | Annotated[OtherContent, Tag("other")],
    Discriminator(_part_kind),
]
Contents = Annotated[list[Content], BeforeValidator(_parts)]


class MessageItem(Form):
    """A message of any role; its type may be missing."""

    role: str
    content: Contents = Field(default_factory=list)


class ReasoningItem(Form):
    """Reasoning of an earlier answer, sent back unchanged."""

    content: Contents = Field(default_factory=list)
    summary: Contents = Field(default_factory=list)


class CallItem(Form):
    """`function_call`: a call of a function, which may be in a namespace."""

    name: str
    call_id: str
    arguments: Any = None
    namespace: str | None = None


class CustomCallItem(Form):
    """`custom_tool_call`: a call whose input is free text."""

    name: str
    call_id: str
    input: str = ""


class ShellCallItem(Form):
    """`local_shell_call`, of older clients."""

    call_id: str
    action: dict[str, Any] = Field(default_factory=dict)


class OutputItem(Form):
    """The output of a call of any kind."""

    call_id: str
    output: Contents = Field(default_factory=list)


class OtherItem(Form):
    """An item of another kind, such as the search of a hosted tool."""

    type: Any = None


_ITEM_KINDS = {
    "message": "message", "reasoning": "reasoning", "function_call": "call",
    "custom_tool_call": "custom_call", "local_shell_call": "shell_call", "function_call_output": "output",
    "custom_tool_call_output": "output", "local_shell_call_output": "output",
}  # fmt: skip


def _item_kind(value: Any) -> str:
    kind = value.get("type") if type(value) is dict else None
    if kind is None and type(value) is dict and "role" in value:
        return "message"
    return _ITEM_KINDS.get(kind, "other") if type(kind) is str else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[CallItem, Tag("call")]
    | Annotated[CustomCallItem, Tag("custom_call")]
    | Annotated[ShellCallItem, Tag("shell_call")]
    | Annotated[OutputItem, Tag("output")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_item_kind),
]


def _items(value: Any) -> Any:
    """Input may be one string, the user's message."""
    return [{"type": "message", "role": "user", "content": value}] if type(value) is str else value


class ToolForm(Form):
    """One entry of `tools`, of any kind; a namespace has tools of its own."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    format: dict[str, Any] | None = None
    tools: list[ToolForm] | None = None


class ResponsesForm(Form):
    """The request. What is passed on as it is (`temperature` and the like) is not listed."""

    input: Annotated[list[InputItem], BeforeValidator(_items)]
    instructions: str | None = None
    tools: list[ToolForm] | None = None
    tool_choice: Any = None
    max_output_tokens: int | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    prompt_cache_key: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    store: bool | None = None
    background: bool | None = None
