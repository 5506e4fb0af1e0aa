"""Pure. Mends what would end a session for ever: odd items that agents keep in their histories.

An agent sends its whole history with each turn, so one item that is refused ends its session: the error is no
overflow, and nothing that the agent does takes the item away. Hence the rule: what the bare server answers,
the proxy answers; where the bare server fails and the meaning is clear, the item is mended. Each kind of mend
has a name, is counted in a metric and told in the header `x-mlxguard-mended`; none is silent.

`mend` works on the parsed body and runs before the strict checks (`parse.py`, `messages.py`), which still
hold for whatever it leaves. It changes what is wrong and nothing else. The last user message stays strict
where a mend would mislead: an image that the model cannot see is an error there, since its user would take
the answer for one about the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.request.images import KINDS, ImagePolicy
from proxy.request.mend_tools import mended_call, mended_choice, mended_functions, mended_tool
from proxy.request.mends import Mend, Mends, json_text

_ROLES = {"function": "tool", "model": "assistant", "ai": "assistant", "human": "user"}
_TEXTS = frozenset({"text", "input_text", "output_text", "refusal"})
_REASONING = {"thinking": "thinking", "reasoning": "text", "reasoning_text": "text", "summary_text": "text"}
#: The fields of a message that templates read a thought from.
_REASONING_FIELDS = ("reasoning_content", "reasoning")
#: Fields that say what a part is about; the first one found is told in place of what is left out.
_LABELS = ("filename", "file_name", "name", "title")

Message = dict[str, Any]


def mend(fields: dict[str, Any], images: ImagePolicy, mends: Mends) -> dict[str, Any]:
    """The fields of a chat request with what is odd in them mended, and counted in `mends`."""
    mended = dict(fields)
    if type(messages := fields.get("messages")) is list:
        mended["messages"] = _messages(messages, images, mends)
    mended_functions(mended, mends)
    if type(tools := mended.get("tools")) is list:
        mended["tools"] = [tool for raw in tools for tool in mended_tool(raw, mends)]
    elif not tools:
        mended.pop("tools", None)
    if mended.get("tool_choice") is not None:
        mended["tool_choice"] = mended_choice(mended["tool_choice"], mends)
    return mended


def _messages(raw: list[Any], images: ImagePolicy, mends: Mends) -> list[Any]:
    last_user = max((i for i, message in enumerate(raw) if _role(message) in ("user", "human")), default=-1)
    excess = _excess_images(raw, last_user, images)
    mended: list[Any] = []
    for index, message in enumerate(raw):
        if type(message) is not dict or _is_plain(message):
            mended.append(message)
        else:
            mended += _Message(message, index == last_user, images, excess, mends).mended()
    return mended


def _role(message: Any) -> str:
    role = message.get("role") if type(message) is dict else None
    return role if type(role) is str else ""


def _is_plain(message: Message) -> bool:
    """Nearly every message: a known role, text, and nothing that would have to be looked into."""
    content = message.get("content")
    return (
        (type(content) is str or content is None)
        and _role(message) not in _ROLES
        and not message.get("tool_calls")
        and not message.get("function_call")
        and type(message.get("name", "")) is str
        and type(message.get("tool_call_id", "")) is str
        and all(type(message.get(name, "")) is str for name in _REASONING_FIELDS)
    )


@dataclass(slots=True)
class _Excess:
    """Images of the history that go over the limit; the earliest are left out."""

    left: int


def _excess_images(raw: list[Any], last_user: int, images: ImagePolicy) -> _Excess:
    """How many of the earliest images must go. In steps of half the limit, so that a growing session does not
    lose its prefix, and with it the server's cache, at each new image."""
    count = sum(
        type(part) is dict and _kind(part) in KINDS
        for index, message in enumerate(raw)
        if type(message) is dict and type(message.get("content")) is list and index != last_user
        for part in message["content"]
    )
    over = count - images.most
    step = max(1, images.most // 2)
    return _Excess(
        0 if images.obstacle is not None or over <= 0 else min(count, math.ceil(over / step) * step)
    )


@dataclass(slots=True)
class _Message:
    """One odd message on its way to the plain form. Becomes several where it holds tool results as parts."""

    raw: Message
    strict: bool
    images: ImagePolicy
    excess: _Excess
    mends: Mends
    calls: list[Any] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)

    def mended(self) -> Iterator[Message]:
        message = dict(self.raw)
        if (role := _role(message)) in _ROLES:
            message["role"] = _ROLES[role]
            self.mends.counts[Mend.ROLE] += 1
        self._mend_names(message)
        self._mend_reasoning(message)
        self._mend_content(message)
        self._mend_calls(message)
        if self.thoughts and not any(message.get(name) for name in _REASONING_FIELDS):
            message["reasoning_content"] = "\n".join(self.thoughts)
        yield from self.results
        if message.get("content") or not self.results:
            yield message

    def _mend_names(self, message: Message) -> None:
        for name in ("name", "tool_call_id"):
            value = message.get(name)
            if value is not None and type(value) is not str:
                message[name] = json_text(value)
                self.mends.counts[Mend.NAME] += 1

    def _mend_reasoning(self, message: Message) -> None:
        for name in _REASONING_FIELDS:
            value = message.get(name)
            if value is None or type(value) is str:
                continue
            del message[name]
            self.mends.counts[Mend.PART] += 1
            for part in value if type(value) is list else [value]:
                text = part.get(_REASONING.get(_kind(part), "text")) if type(part) is dict else part
                if type(text) is str:
                    self.thoughts.append(text)

    def _mend_content(self, message: Message) -> None:
        content = message.get("content")
        if content is None or type(content) is str:
            return
        if type(content) is list:
            message["content"] = [kept for part in content for kept in self._part(part, message)]
            return
        self.mends.counts[Mend.CONTENT] += 1
        if type(content) is dict and _kind(content) in _TEXTS and type(content.get("text")) is str:
            message["content"] = content["text"]
        else:
            message["content"] = json_text(content)

    def _part(self, part: Any, message: Message) -> Iterator[Any]:
        """What stays of a part in its place; reasoning, calls and results go to places of their own."""
        kind = _kind(part)
        if kind in KINDS:
            yield from self._image(part)
        elif kind in _TEXTS:
            yield self._text_part(part, kind)
        elif kind in _REASONING or kind == "redacted_thinking":
            self.mends.counts[Mend.PART] += 1
            thought = part.get(_REASONING.get(kind, ""))
            if type(thought) is str and thought:
                self.thoughts.append(thought)
        elif kind == "tool_use" and message.get("role") == "assistant":
            self.mends.counts[Mend.PART] += 1
            self.calls.append(part)
        elif kind == "tool_result" and type(part.get("tool_use_id")) is str:
            self.mends.counts[Mend.PART] += 1
            result = {"role": "tool", "tool_call_id": part["tool_use_id"], "content": part.get("content", "")}
            self.results += _Message(result, False, self.images, self.excess, self.mends).mended()
        elif self.strict:
            yield part
        else:
            yield from self._omitted(part, kind)

    def _text_part(self, part: Any, kind: str) -> Any:
        name = "refusal" if kind == "refusal" else "text"
        if type(part) is not dict or type(text := part.get(name)) is str:
            return part
        self.mends.counts[Mend.CONTENT] += 1
        return {**part, name: "" if text is None else json_text(text)}

    def _image(self, part: Any) -> Iterator[Any]:
        if self.strict:
            yield part
        elif self.images.obstacle is not None:
            self.mends.counts[Mend.IMAGE] += 1
            yield _text("[image omitted: this model takes no images]")
        elif self.excess.left:
            self.excess.left -= 1
            self.mends.counts[Mend.IMAGE] += 1
            yield _text("[earlier image omitted]")
        else:
            yield part

    def _omitted(self, part: Message, kind: str) -> Iterator[Any]:
        """Audio, files and unknown parts: their text if they have one, or else a word in their place."""
        self.mends.counts[Mend.PART_OMITTED] += 1
        if type(part.get("text")) is str:
            yield _text(part["text"])
            return
        inner = part.get(kind)
        label = next(
            (
                holder[name]
                for holder in (part, inner)
                if type(holder) is dict
                for name in _LABELS
                if type(holder.get(name)) is str
            ),
            "",
        )
        yield _text(f"[{kind or 'part'} omitted{': ' + label if label else ''}]")

    def _mend_calls(self, message: Message) -> None:
        calls = message.get("tool_calls") or []
        if type(calls) is dict:
            calls = [calls]
        if type(legacy := message.pop("function_call", None)) is dict and not calls:
            calls = [{"type": "function", "function": legacy}]
            self.mends.counts[Mend.CALL] += 1
        if not calls and not self.calls:
            message.pop("tool_calls", None)
        if type(calls) is not list or not (calls or self.calls):
            return
        mended = [call for raw in [*calls, *self.calls] for call in mended_call(raw, self.mends)]
        message["tool_calls"] = mended
        if not mended:
            del message["tool_calls"]


def _kind(part: Any) -> str:
    kind = part.get("type", "text") if type(part) is dict else "text"
    return kind if type(kind) is str else ""


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
