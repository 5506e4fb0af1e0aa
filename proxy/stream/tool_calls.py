"""Pure. Sees to it that tool calls reach the client whole or not at all.

The child parses each tool call of its model. A call that it cannot read it leaves out, and still ends the
answer with `finish_reason: "tool_calls"` (server.py, ToolCallFormatter and handle_completion): agents then
send the same history again, without end. What it could read may still be something that no agent can: the
arguments of a call as JSON text inside of JSON text, NaN, a call without a name.

A mender reads the child's bytes before any client of the relay does, so each kind of client gets mended
events. It holds back no more than the event that has not ended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import orjson

from proxy.stream import sse
from proxy.stream.child_stream import choice_of

#: What the user reads in place of a call that the child could not read twice.
UNREADABLE = "The model tried to call a tool, but its call could not be read."

#: Occurs in an event only if it has calls, or ends with them: quotes in generated text are escaped.
_MARK = b'"tool_calls"'

#: Begins the text of an event that has some.
_TEXT = b'"content": "'

#: Arguments are un-quoted at most this often; models quote them once or twice.
_MOST_QUOTES = 4


class CallMend(StrEnum):
    """What was done for the tool calls of an answer; the values name it in a metric and in a header."""

    ASKED_AGAIN = "asked_again"  # a call could not be read, and the model was asked for another answer
    UNREADABLE = "unreadable"  # nor could that of the other answer, which ends with a text instead
    UNNAMED = "unnamed_omitted"  # a call without the name of a tool
    UNQUOTED = "arguments_unquoted"  # arguments that were JSON text inside of JSON text
    NUMBER = "number_to_null"  # NaN and Infinity, which JSON has not


class CallLost(Exception):
    """The answer was to end with a tool call, and had none that could be read."""


class StreamCalls:
    """The tool calls in the stream of one attempt.

    Args:
        mends: is counted up by what is done.
        may_ask_again: asked when a call is lost: whether another answer may take the place of this one.

    Attributes:
        sent: how many calls the stream had so far.
    """

    __slots__ = ("_holds", "_is_chat", "_may_ask_again", "_mends", "_splitter", "_texts", "sent")

    def __init__(
        self, mends: Counter[CallMend], *, is_chat: bool, may_ask_again: Callable[[], bool] = lambda: False
    ) -> None:
        self._mends = mends
        self._is_chat = is_chat
        self._may_ask_again = may_ask_again
        self._splitter = sse.EventSplitter()
        self._holds = False  # maybe a part of an event
        self._texts = False
        self.sent = 0

    def is_plain(self, data: bytes) -> bool:
        """Whether `data` is whole events without calls; if so, they are noted, and go on as they are."""
        if _MARK in data or self._holds or not data.endswith(sse.END):
            return False
        if not self._texts:
            self._texts = _TEXT in data
        return True

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes, mended. Raises CallLost, Malformed."""
        if self.is_plain(data):
            return data
        self._holds = not data.endswith(sse.END)
        return b"".join([self._mended(block) + sse.END for block in self._splitter.feed(data)])

    def end(self) -> bytes:
        """The connection ended: what was held back of an event without its end."""
        return b""

    def _mended(self, block: bytes) -> bytes:
        if _MARK not in block or not block.startswith(sse.DATA):
            self._texts = self._texts or _TEXT in block
            return block
        event = sse.loads(block[len(sse.DATA) :])
        choice = choice_of(event)
        delta = None if choice is None else choice.get("delta", {})
        if choice is None or not isinstance(delta, dict):
            return block
        changed = mend_calls(delta, self._mends)
        if changed and isinstance(calls := delta.get("tool_calls"), list):
            for number, call in enumerate(calls):
                call["index"] = self.sent + number
        self.sent += len(delta.get("tool_calls") or ())
        if choice.get("finish_reason") == "tool_calls" and not self.sent:
            self._lose(choice, delta)
            changed = True
        return sse.DATA + sse.dumps(event) if changed else block

    def _lose(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        if self._may_ask_again():
            raise CallLost
        choice["finish_reason"] = "stop"
        if self._is_chat:
            self._mends[CallMend.UNREADABLE] += 1
            before = delta.get("content") or ""
            delta["content"] = before + _apart(UNREADABLE, follows=self._texts or bool(before))

    def conclusion(self, head: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The end of an answer on whose call the child choked, as the child's own events.

        `head`: the fields of each event besides its choices.
        """
        finish = "tool_calls" if self.sent else "stop"
        delta: dict[str, Any] = {"role": "assistant"}
        if not self.sent:
            self._mends[CallMend.UNREADABLE] += 1
            delta["content"] = _apart(UNREADABLE, follows=self._texts)
        choice = {"index": 0, "finish_reason": finish, "delta": delta}
        counted = sse.event({**head, "choices": [], "usage": usage})
        return sse.event({**head, "choices": [choice]}) + counted + sse.DONE + sse.END


class BodyCalls:
    """The tool calls of an answer that the child was asked for unstreamed; the same interface."""

    __slots__ = ("_is_chat", "_may_ask_again", "_mends", "_pieces", "sent")

    def __init__(
        self, mends: Counter[CallMend], *, is_chat: bool, may_ask_again: Callable[[], bool] = lambda: False
    ) -> None:
        self._mends = mends
        self._is_chat = is_chat
        self._may_ask_again = may_ask_again
        self._pieces: list[bytes] = []
        self.sent = 0

    def is_plain(self, data: bytes) -> bool:
        """Never: a body is complete at its end."""
        return False

    def feed(self, data: bytes) -> bytes:
        """Collect the bytes."""
        self._pieces.append(data)
        return b""

    def end(self) -> bytes:
        """The body, mended. Raises CallLost, Malformed."""
        body = b"".join(self._pieces)
        if _MARK not in body:
            return body
        whole = sse.loads(body)
        choice = choice_of(whole)
        message = None if choice is None else choice.get("message", {})
        if choice is None or not isinstance(message, dict):
            return body
        changed = mend_calls(message, self._mends)
        self.sent = len(message.get("tool_calls") or ())
        if choice.get("finish_reason") == "tool_calls" and not self.sent:
            if self._may_ask_again():
                raise CallLost
            choice["finish_reason"] = "stop"
            changed = True
            if self._is_chat:
                self._mends[CallMend.UNREADABLE] += 1
                before = message.get("content") or ""
                message["content"] = before + _apart(UNREADABLE, follows=bool(before))
        # The standard library's writer, since log probabilities may be infinite.
        return json.dumps(whole).encode() if changed else body

    def conclusion(self, head: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The whole answer in place of one on whose call the child choked. `head`: as in `StreamCalls`."""
        self._mends[CallMend.UNREADABLE] += 1
        message = {"role": "assistant", "content": UNREADABLE}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return sse.dumps({**head, "choices": [choice], "usage": usage})


ToolCalls = StreamCalls | BodyCalls


def mend_calls(part: dict[str, Any], mends: Counter[CallMend]) -> bool:
    """Mend the calls of a delta or a message in place; whether anything had to be."""
    calls = part.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return False
    kept = [call for call in calls if _is_named(call)]
    changed = [_mend_call(call, mends) for call in kept]
    if len(kept) == len(calls):
        return any(changed)
    mends[CallMend.UNNAMED] += len(calls) - len(kept)
    part["tool_calls"] = kept
    if not kept:
        del part["tool_calls"]
    return True


def _is_named(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return isinstance(name, str) and bool(name)


def _mend_call(call: dict[str, Any], mends: Counter[CallMend]) -> bool:
    function = call["function"]
    before = function.get("arguments")
    after = mended_arguments(before, mends) if isinstance(before, str) else before
    identity = call.get("id")
    if after == before and (identity is None or isinstance(identity, str)):
        return False
    function["arguments"] = after
    if identity is not None:
        call["id"] = str(identity)  # a model may have written one of its own, such as 1
    return True


def mended_arguments(text: str, mends: Counter[CallMend]) -> str:
    """Arguments as the JSON text of a value that is not itself such a text, without NaN and Infinity."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        text, value = _without_odd_numbers(text, mends)
    for _ in range(_MOST_QUOTES):
        if not isinstance(value, str):
            return text
        try:
            inner = orjson.loads(value)
        except orjson.JSONDecodeError:
            return text
        if isinstance(inner, dict):
            mends[CallMend.UNQUOTED] += 1
            return value
        value = inner
    return text


def _without_odd_numbers(text: str, mends: Counter[CallMend]) -> tuple[str, Any]:
    odd = 0

    def constant(_: str) -> None:
        nonlocal odd
        odd += 1

    try:
        value = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError):
        return text, None
    if not odd:
        return text, value
    mends[CallMend.NUMBER] += odd
    return json.dumps(value, ensure_ascii=False), value


def _apart(text: str, *, follows: bool) -> str:
    return f"\n\n{text}" if follows else text
