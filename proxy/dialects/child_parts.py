"""Pure. Reads the child's stream as the parts of an answer: text, reasoning and tool calls, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from proxy.dialects.arguments import sent_arguments
from proxy.stream import sse
from proxy.stream.child_stream import StreamProgress, Usage, choice_of, delta_of, read_event

#: Keys of a delta that has nothing but text.
_TEXT_ONLY = frozenset({"role", "content"})
#: What surrounds the text in an event that has nothing else: its key, and the end of the event.
_BEFORE_TEXT, _AFTER_TEXT = b'"content": ', b"}}]}"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Some more text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Some more of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """One tool call, which the child sends whole. `arguments`: JSON text, as the client is sent it."""

    id: str
    name: str
    arguments: str


AnswerPart = TextPart | ReasoningPart | CallPart


class PartReader:
    """Reads the stream of one attempt. `finish_reason` is the child's, once it has given one."""

    __slots__ = ("_before", "_splitter", "finish_reason", "seen")

    def __init__(self) -> None:
        self.seen = StreamProgress()
        self.finish_reason: str | None = None
        self._splitter = sse.EventSplitter()
        self._before: bytes | None = None

    def feed(self, data: bytes) -> list[AnswerPart]:
        """The parts that `data` completes; pieces of one text that arrive together are one part.

        Raises Malformed.
        """
        parts: list[AnswerPart] = []
        for block in self._splitter.feed(data):
            if self.seen.done:  # what follows [DONE] does not belong to the answer
                break
            event = read_event(block, self.seen)
            choice = None if event is None else choice_of(event)
            if choice is None:
                continue
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = delta_of(choice)
            if self._before is None and not delta.keys() - _TEXT_ONLY and delta.get("content"):
                self._learn(block)
            for part in parts_of(delta):
                _append(parts, part)
        return parts

    def text_only(self, data: bytes) -> str | None:
        """The text of `data`, if it is whole events with text and nothing else; else nothing has changed.

        The texts are parsed as one list. What joins them occurs in no JSON string, so each event had one
        string and nothing more if the list has as many strings as there are events.
        """
        before, blocks = self._before, self._splitter.whole(data)
        if before is None or not blocks or self.seen.done:
            return None
        if not all(block.startswith(before) and block.endswith(_AFTER_TEXT) for block in blocks):
            return None
        begin, end = len(before), -len(_AFTER_TEXT)
        try:
            texts = orjson.loads(b"[" + b",\n\n".join([block[begin:end] for block in blocks]) + b"]")
        except orjson.JSONDecodeError:
            return None
        if len(texts) != len(blocks) or set(map(type, texts)) != {str}:
            return None
        text = "".join(texts)
        if text:
            self.seen.events += len(blocks)
        return text or None

    def _learn(self, block: bytes) -> None:
        """Take what precedes the text of this event as the beginning of others like it."""
        at = block.find(_BEFORE_TEXT)
        if at >= 0 and block.endswith(_AFTER_TEXT):
            self._before = block[: at + len(_BEFORE_TEXT)]


def parts_of(message: dict[str, Any]) -> list[AnswerPart]:
    """The parts of a delta or of a whole message, as the child orders them."""
    parts: list[AnswerPart] = []
    if reasoning := message.get("reasoning"):
        parts.append(ReasoningPart(reasoning))
    if text := message.get("content"):
        parts.append(TextPart(text))
    return parts + [_call(call) for call in message.get("tool_calls") or ()]


def usage_of(completion: dict[str, Any], prompt_tokens: int) -> Usage:
    """The usage of a whole completion; where the child reported none, the prompt that was counted.

    Raises Malformed.
    """
    usage = completion.get("usage")
    return Usage.of(usage) if usage is not None else Usage(prompt_tokens, 0, None)


def _append(parts: list[AnswerPart], part: AnswerPart) -> None:
    last = parts[-1] if parts else None
    match last, part:
        case (TextPart(before), TextPart(text)):
            parts[-1] = TextPart(before + text)
        case (ReasoningPart(before), ReasoningPart(text)):
            parts[-1] = ReasoningPart(before + text)
        case _:
            parts.append(part)


def _call(call: dict[str, Any]) -> CallPart:
    """A call without a name is passed on with an empty one: the client tells the model that it has none."""
    function = call.get("function")
    function = function if type(function) is dict else {}
    id, name = call.get("id"), function.get("name")
    return CallPart(
        id=id if type(id) is str else "",
        name=name if type(name) is str else "",
        arguments=sent_arguments(function.get("arguments")),
    )
