"""Pure. Translates a Responses request into the chat request with the same meaning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from proxy.dialects.arguments import INPUT, past_arguments
from proxy.dialects.conversation import NO_IMAGE, ConversationBuilder, Piece, image, reminder
from proxy.dialects.loading import read_form
from proxy.dialects.responses.events import ID_PREFIX, ResponseForm
from proxy.dialects.responses.forms import (
    CallItem,
    Content,
    CustomCallItem,
    ImageContent,
    InputItem,
    MessageItem,
    OtherContent,
    OtherItem,
    OutputItem,
    ReasoningItem,
    RefusalContent,
    ResponsesForm,
    ShellCallItem,
    TextContent,
)
from proxy.dialects.responses.last_tools import LastTools
from proxy.dialects.responses.tools import FunctionTable
from proxy.dialects.translation import ChatBody, Translation, numbered
from proxy.request.completion import Bounds
from proxy.request.fields import refuse
from proxy.request.mends import Mends
from proxy.request.parse import load_body

#: Fields that mean the same in both APIs.
_SAME = ("model", "stream", "temperature", "top_p")

#: The field of the Responses API for those of a chat request that are named otherwise.
_FIELDS = {"max_tokens": "max_output_tokens", "messages": "input"}

#: Said at the end of a compaction whose tools were put back. It has them for the prefix alone, and a call
#: instead of a summary would make Codex compact again and again.
_TEXT_ONLY = "Answer with text only. No tool can be called in this answer."

#: Roles whose text the model is to follow. `developer` is the newer name of `system`.
_INSTRUCTING = ("system", "developer")


def responses_request(body: bytes, bounds: Bounds, last_tools: LastTools, client: str = "") -> Translation:
    """Translate a Responses request. Raises InvalidRequest naming the field.

    `last_tools`: remembers the tools of this `client`'s conversations.
    """
    mends = Mends()
    fields = load_body(body, mends)
    form = read_form(ResponsesForm, fields)
    _refuse_stored(form)
    if not form.input and not form.instructions:
        refuse("input", "must be a string or a list with at least one item")
    asked = form
    if type(form.prompt_cache_key) is str:
        form = last_tools.restored(form, (client, form.prompt_cache_key))
    has_restored_tools = form is not asked
    table = FunctionTable.of(form.tools or ())
    conversation = _Input(form, table, bounds)
    if has_restored_tools:
        conversation.remind(_TEXT_ONLY)
    messages, origins = conversation.finish()
    chat: dict[str, Any] = {name: fields[name] for name in _SAME if fields.get(name) is not None}
    chat["messages"] = messages
    if form.max_output_tokens is not None:
        chat["max_tokens"] = form.max_output_tokens
    if table.offered:
        chat["tools"] = table.offered
        chat["tool_choice"] = table.choice(form.tool_choice)
    if (kwargs := _template_kwargs(form, bounds)) is not None:
        chat["chat_template_kwargs"] = kwargs
    places = numbered("messages", origins) | numbered("tools", table.origins) | _FIELDS
    answer_form = partial(
        ResponseForm,
        table=table,
        is_length_set=form.max_output_tokens is not None,
        drops_calls=has_restored_tools,
    )
    left_out = (*table.left_out, *conversation.left_out, *_formats(form))
    return Translation(ChatBody(chat, places).request(bounds, mends), answer_form, left_out, ID_PREFIX)


def _refuse_stored(form: ResponsesForm) -> None:
    """What would need answers of earlier requests: none is stored here, and leaving it out would mislead."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(form, name) is not None:
            refuse(name, "is not supported: this server stores nothing; send the whole input")
    for name in ("store", "background"):
        if getattr(form, name):
            refuse(name, "must be false: this server stores no responses")


def _formats(form: ResponsesForm) -> tuple[str, ...]:
    """A format that the answer is not held to: the server cannot constrain its output."""
    wanted = (form.text or {}).get("format")
    return ("text.format",) if type(wanted) is dict and wanted.get("type") != "text" else ()


def _template_kwargs(form: ResponsesForm, bounds: Bounds) -> dict[str, Any] | None:
    """Whether the model thinks at all, if the operator lets clients say so. Efforts have no counterpart."""
    allowed = bounds.allowlist.arguments.get("enable_thinking", frozenset())
    if (form.reasoning or {}).get("effort") != "none" or not (allowed is None or "false" in allowed):
        return None
    return {"enable_thinking": False}


class _Input:
    """The items of a request as messages. The items of one answer become one message of the assistant."""

    def __init__(self, form: ResponsesForm, table: FunctionTable, bounds: Bounds) -> None:
        self.left_out: list[str] = []
        self._table = table
        self._conversation = ConversationBuilder(bounds.images)
        self._conversation.instruct(form.instructions or "", "instructions")
        for index, item in enumerate(form.input):
            self._add(item, f"input[{index}]")

    def remind(self, text: str) -> None:
        """Add a reminder of our own at the end."""
        self._conversation.say([reminder(text)], "input")

    def finish(self) -> tuple[list[dict[str, Any]], list[str]]:
        return self._conversation.finish()

    def _add(self, item: InputItem, origin: str) -> None:
        conversation = self._conversation
        match item:
            case MessageItem(role=role, content=content):
                self._message(role, content, origin)
            case ReasoningItem(content=content, summary=summary):
                conversation.answer(origin, reasoning=_text(content or summary))
            case CallItem(name=name, namespace=namespace):
                self._call(item.call_id, self._table.name(name, namespace), item.arguments, origin)
            case CustomCallItem(name=name):
                self._call(item.call_id, self._table.name(name), {INPUT: item.input}, origin)
            case ShellCallItem():
                self._call(item.call_id, "local_shell", item.action, origin)
            case OutputItem(call_id=call_id, output=output):
                conversation.result(call_id, [_piece(part) for part in output], origin)
            case OtherItem(type="item_reference"):
                refuse(origin, "must not refer to a stored item: this server stores nothing")
            case OtherItem(type=kind):
                self.left_out.append(f"item {kind}")

    def _message(self, role: str, content: Sequence[Content], origin: str) -> None:
        if role == "user":
            self._conversation.say([_piece(part) for part in content], origin)
        elif role == "assistant":
            self._conversation.answer(origin, text=_text(content))
        elif role in _INSTRUCTING:
            for part in content:
                self._conversation.instruct(_text([part]), origin)
        else:
            refuse(f"{origin}.role", "must be one of user, assistant, system and developer")

    def _call(self, call_id: str, name: str, arguments: Any, origin: str) -> None:
        function = {"name": name, "arguments": past_arguments(arguments)}
        self._conversation.answer(origin, calls=[{"type": "function", "id": call_id, "function": function}])


def _text(parts: Sequence[Content]) -> str:
    """The texts of an answer or of reasoning, which are pieces of one text."""
    return "".join(piece for piece in map(_piece, parts) if isinstance(piece, str))


def _piece(part: Content) -> Piece:
    """What the model is shown of a part: its text, an image, or a short text in its place."""
    match part:
        case TextContent(text=text) | RefusalContent(refusal=text):
            return text
        case ImageContent(image_url=str() as url) | ImageContent(image_url={"url": str() as url}):
            return image(url)
        case ImageContent():
            return NO_IMAGE
        case OtherContent(type=str() as kind) if kind.isidentifier() and len(kind) < 64:
            return f"[{kind}: not shown]"
        case _:
            return ""
