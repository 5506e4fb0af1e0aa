"""Pure. Translates a Messages request into the chat request with the same meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.dialects.arguments import past_arguments
from proxy.dialects.conversation import NO_IMAGE, ConversationBuilder, Piece, image
from proxy.dialects.loading import read_form
from proxy.dialects.messages.events import ID_PREFIX, MessageForm
from proxy.dialects.messages.forms import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesForm,
    TextBlock,
    ThinkingBlock,
    ToolEntry,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)
from proxy.dialects.translation import ChatBody, Translation, numbered
from proxy.request.completion import Bounds
from proxy.request.fields import refuse
from proxy.request.mends import Mends
from proxy.request.parse import load_body

#: Headers in the disguise of system text, such as `x-anthropic-billing-header: ...`: whole lines at the start
#: of a block, which say something of the session and nothing to the model.
_HEADER_LINES = re.compile(r"(?:x-anthropic-[^\n]*(?:\n|\Z))+", re.IGNORECASE)

#: A tool's error, if its text does not begin with a word for it.
_ERROR = "Error: "
_SAYS_ERROR = ("error", "<tool_use_error>")

#: Fields that mean the same in both APIs.
_SAME = ("model", "stream", "max_tokens", "temperature", "top_p", "top_k")

#: The field of the Messages API for those of a chat request that are named otherwise.
_FIELDS = {"stop": "stop_sequences"}

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def messages_request(body: bytes, bounds: Bounds) -> Translation:
    """Translate a Messages request. Raises InvalidRequest naming the field."""
    mends = Mends()
    fields = load_body(body, mends)
    form = read_form(MessagesForm, fields)
    if not form.messages:
        refuse("messages", "must be a list with at least one message")
    chat, left_out = _chat_body(form, fields, bounds)
    return Translation(chat.request(bounds, mends), MessageForm, left_out, ID_PREFIX)


def count_request(body: bytes, bounds: Bounds) -> Translation:
    """Translate a request to count tokens: the same, but there may be no message. Raises InvalidRequest.

    A template cannot render a conversation of nothing, so an empty message of the user takes its place.
    """
    mends = Mends()
    fields = load_body(body, mends)
    if type(fields.get("messages")) is str:
        fields["messages"] = [{"role": "user", "content": fields["messages"]}]
    if not fields.get("messages"):
        fields["messages"] = [{"role": "user", "content": ""}]
    chat, left_out = _chat_body(read_form(MessagesForm, fields), fields, bounds)
    return Translation(chat.request(bounds, mends), MessageForm, left_out, ID_PREFIX)


def _chat_body(
    form: MessagesForm, fields: dict[str, Any], bounds: Bounds
) -> tuple[ChatBody, tuple[str, ...]]:
    tools = _Tools(form.tools or ())
    messages, origins = _conversation(form, tools, bounds)
    chat: dict[str, Any] = {name: fields[name] for name in _SAME if fields.get(name) is not None}
    chat["messages"] = messages
    if tools.offered:
        chat["tools"] = tools.offered
        chat["tool_choice"] = tools.choice(form.tool_choice)
    if fields.get("stop_sequences"):
        chat["stop"] = fields["stop_sequences"]
    if (kwargs := _template_kwargs(form, bounds)) is not None:
        chat["chat_template_kwargs"] = kwargs
    places = numbered("messages", origins) | numbered("tools", tools.origins) | _FIELDS
    formats = ("output_config.format",) if (form.output_config or {}).get("format") else ()
    return ChatBody(chat, places), (*tools.left_out, *formats)


def _template_kwargs(form: MessagesForm, bounds: Bounds) -> dict[str, Any] | None:
    """Whether the model thinks, where the client says so and the operator allows it to.

    The other kinds (`adaptive`, an effort, a budget) have no counterpart in templates.
    """
    wanted = {"enabled": True, "disabled": False}.get(str((form.thinking or {}).get("type")))
    allowed = bounds.allowlist.arguments.get("enable_thinking", frozenset())
    if wanted is None or not (allowed is None or str(wanted).lower() in allowed):
        return None
    return {"enable_thinking": wanted}


def _conversation(
    form: MessagesForm, tools: _Tools, bounds: Bounds
) -> tuple[list[dict[str, Any]], list[str]]:
    conversation = ConversationBuilder(bounds.images)
    for block in form.system:
        conversation.instruct(_instruction(block), "system")
    for index, entry in enumerate(form.messages):
        origin = f"messages[{index}]"
        match entry.role:
            case "user":
                _say(conversation, entry.content, tools, origin)
            case "assistant":
                _answer(conversation, entry.content, origin)
            case "system" | "developer":
                for block in entry.content:
                    conversation.instruct(_instruction(block), origin)
            case _:
                refuse(f"{origin}.role", "must be one of user, assistant and system")
    return conversation.finish()


def _instruction(block: Block) -> str:
    text = block.text if isinstance(block, TextBlock) else ""
    headers = _HEADER_LINES.match(text)
    return text[headers.end() :].lstrip("\n") if headers else text


def _say(conversation: ConversationBuilder, blocks: Sequence[Block], tools: _Tools, origin: str) -> None:
    """Results first, in their order, then all that the user says: templates allow nothing between results."""
    pieces: list[Piece] = []
    has_results = False
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            conversation.result(block.tool_use_id, _result(block, tools), origin)
            has_results = True
        else:
            pieces.append(_piece(block, tools))
    if any(pieces) or not has_results:
        conversation.say(pieces, origin)


def _answer(conversation: ConversationBuilder, blocks: Sequence[Block], origin: str) -> None:
    conversation.answer(
        origin,
        reasoning="".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)),
        text="".join(block.text for block in blocks if isinstance(block, TextBlock)),
        calls=[_call(block) for block in blocks if isinstance(block, ToolUseBlock)],
    )


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": past_arguments(block.input)}
    return {"type": "function", "id": block.id, "function": function}


def _result(block: ToolResultBlock, tools: _Tools) -> list[Piece]:
    pieces = [_piece(inner, tools) for inner in block.content]
    if block.is_error:
        first = pieces[0] if pieces and isinstance(pieces[0], str) else ""
        if not first.lower().lstrip().startswith(_SAYS_ERROR):
            pieces[: 1 if first else 0] = [_ERROR + first]
    return pieces


def _piece(block: Block, tools: _Tools) -> Piece:
    """What the model is shown of a block: its text, an image, or a short text in its place."""
    match block:
        case TextBlock(text=text):
            return text
        case ImageBlock(source=source):
            return _image(source)
        case DocumentBlock(source=source, title=title):
            written = source.get("data") if source.get("type") == "text" else None
            return written if type(written) is str else f"[document: {title or 'without a title'}, not shown]"
        case ToolReferenceBlock(tool_name=name):
            return tools.described(name)
        case UnknownBlock(type=str() as kind) if kind.isidentifier() and len(kind) < 64:
            return f"[{kind}: not shown]"
        case _:
            return ""


def _image(source: dict[str, Any]) -> Piece:
    kind, data = source.get("media_type"), source.get("data")
    if source.get("type") == "base64" and type(kind) is str and type(data) is str:
        return image(f"data:{kind};base64,{data}")
    url = source.get("url")
    return image(url) if type(url) is str else NO_IMAGE


class _Tools:
    """The tools that the model is offered, and those that it is only told of when they are found."""

    def __init__(self, entries: Sequence[ToolEntry]) -> None:
        self._entries = {entry.name: entry for entry in entries if entry.name}
        self.left_out = tuple(f"tool {e.name or e.type}" for e in entries if e.is_hosted)
        # A search that Anthropic hosts does not exist here, so nothing would ever bring in what it defers.
        defers = not any(entry.is_hosted and "tool_search" in str(entry.type) for entry in entries)
        numbers = [
            number
            for number, entry in enumerate(entries)
            if not entry.is_hosted and not (defers and entry.defer_loading)
        ]
        self.origins = [f"tools[{number}]" for number in numbers]
        self.offered: list[dict[str, Any]] = [
            {"type": "function", "function": _function(entries[number])} for number in numbers
        ]

    def described(self, name: str) -> str:
        """A tool that a search has found, as text: what the template would tell of it."""
        entry = self._entries.get(name)
        return orjson.dumps(_function(entry)).decode() if entry is not None else name

    def choice(self, wanted: dict[str, Any] | None) -> Any:
        """`tool_choice` of the chat API. A tool that was left out cannot be forced."""
        kind, name = (wanted or {}).get("type"), (wanted or {}).get("name")
        if kind == "tool" and any(tool["function"]["name"] == name for tool in self.offered):
            return {"type": "function", "function": {"name": name}}
        return _CHOICES.get(kind, "auto") if type(kind) is str else "auto"


def _function(entry: ToolEntry) -> dict[str, Any]:
    function = {"name": entry.name, "description": entry.description, "parameters": entry.input_schema}
    return {name: value for name, value in function.items() if value is not None}
