"""Pure. The output items of a response: each as it begins, as it grows, and as it is when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.dialects.child_parts import CallPart
from proxy.dialects.responses.tools import FunctionTable, custom_input

#: An event without its sequence number: its type, and its fields.
Event = tuple[str, dict[str, Any]]


class MessageOutput:
    """An assistant's message with one text."""

    def __init__(self, unique: str, index: int) -> None:
        self._texts: list[str] = []
        self._place = {"item_id": f"msg_{unique}_{index}", "output_index": index, "content_index": 0}

    def begin(self) -> Iterator[Event]:
        yield "response.output_item.added", _added(self._place, self._item("in_progress", []))
        yield "response.content_part.added", {**self._place, "part": _output_text("")}

    def delta(self, text: str) -> Event:
        self._texts.append(text)
        return "response.output_text.delta", {**self._place, "delta": text, "logprobs": []}

    def end(self) -> Iterator[Event]:
        text = "".join(self._texts)
        yield "response.output_text.done", {**self._place, "text": text, "logprobs": []}
        yield "response.content_part.done", {**self._place, "part": _output_text(text)}
        yield "response.output_item.done", _added(self._place, self.done())

    def done(self) -> dict[str, Any]:
        """The finished item."""
        return self._item("completed", [_output_text("".join(self._texts))])

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        identity = {"type": "message", "id": self._place["item_id"], "role": "assistant"}
        return {**identity, "status": status, "content": content}


class ReasoningOutput:
    """What the model thought. The text is sent openly, so there is nothing to encrypt."""

    def __init__(self, unique: str, index: int) -> None:
        self._texts: list[str] = []
        self._place = {"item_id": f"rs_{unique}_{index}", "output_index": index, "content_index": 0}

    def begin(self) -> Iterator[Event]:
        yield "response.output_item.added", _added(self._place, self._item("in_progress", []))
        yield "response.content_part.added", {**self._place, "part": _reasoning_text("")}

    def delta(self, text: str) -> Event:
        self._texts.append(text)
        return "response.reasoning_text.delta", {**self._place, "delta": text}

    def end(self) -> Iterator[Event]:
        text = "".join(self._texts)
        yield "response.reasoning_text.done", {**self._place, "text": text}
        yield "response.content_part.done", {**self._place, "part": _reasoning_text(text)}
        yield "response.output_item.done", _added(self._place, self.done())

    def done(self) -> dict[str, Any]:
        """The finished item."""
        return self._item("completed", [_reasoning_text("".join(self._texts))])

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        item = {"type": "reasoning", "id": self._place["item_id"], "status": status, "summary": []}
        return {**item, "content": content, "encrypted_content": None}


class CallOutput:
    """A call in the client's kind: of a function, perhaps in a namespace, or of a custom tool."""

    def __init__(self, unique: str, index: int, call: CallPart, table: FunctionTable) -> None:
        target = table.target(call.name)
        self._is_custom = target.kind == "custom"
        self._input = custom_input(call.arguments) if self._is_custom else call.arguments
        self._field = "input" if self._is_custom else "arguments"
        prefix, kind = ("ctc", "custom_tool_call") if self._is_custom else ("fc", "function_call")
        self._place = {"item_id": f"{prefix}_{unique}_{index}", "output_index": index}
        self._head = {
            "type": kind,
            "id": self._place["item_id"],
            "call_id": call.id or f"call_{unique}_{index}",
            "name": target.name,
        }
        if target.namespace is not None:
            self._head["namespace"] = target.namespace

    def events(self) -> Iterator[Event]:
        """All events of the item; a call comes whole."""
        growing = "response.custom_tool_call_input" if self._is_custom else "response.function_call_arguments"
        empty = {**self._head, "status": "in_progress", self._field: ""}
        named = {} if self._is_custom else {"name": self._head["name"]}
        yield "response.output_item.added", _added(self._place, empty)
        yield f"{growing}.delta", {**self._place, "delta": self._input}
        yield f"{growing}.done", {**self._place, **named, self._field: self._input}
        yield "response.output_item.done", _added(self._place, self.done())

    def done(self) -> dict[str, Any]:
        """The finished item."""
        return {**self._head, "status": "completed", self._field: self._input}


def _added(place: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    return {"output_index": place["output_index"], "item": item}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning_text(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}
