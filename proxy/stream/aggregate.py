"""Pure. Collects a streamed answer into the one JSON body that the child would have sent unstreamed.

Follows generate_response in mlx_lm/server.py: `content` is null if there is no text, `text` never is,
`reasoning` and `tool_calls` are present only if they are not empty, and tool calls have no `index`.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.child_stream import (
    StreamProgress,
    Usage,
    add_reasoning_content,
    choice_of,
    delta_of,
    read_event,
)

#: What OpenAI documents for a token that is not among the most likely ones; JSON has no -Infinity.
_LEAST_LOGPROB = -9999.0

#: Fields of a delta, or of the choice of a text completion, of an event that adds nothing but text.
_TEXT_ONLY = frozenset({"role", "content", "index", "finish_reason", "text"})

#: What surrounds the text in an event that adds nothing else: its name before, the closing brackets behind.
_CHAT_TEXT, _PLAIN_TEXT = (b'"content": ', b"}}]}"), (b'"text": ', b"}]}")


class Aggregator:
    """Collects the stream of one attempt.

    Nearly all events of a stream differ in their text alone. The bytes before the text are learned from the
    first such event. Of consecutive events with the same bytes before and behind, only the text between is
    parsed, in one call for the whole run. If any of them has anything but one string there, each is parsed as
    a whole.
    """

    __slots__ = (
        "_answer", "_before", "_behind", "_fields", "_finish_reason", "_name", "_reasoning", "_splitter",
        "_text", "_tools", "_usage", "seen",
    )  # fmt: skip

    def __init__(self, answer: Answer) -> None:
        self.seen = StreamProgress()
        self._answer = answer
        self._splitter = sse.EventSplitter()
        self._fields: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: list[dict[str, Any]] = []
        self._usage: dict[str, Any] | None = None
        self._name, self._behind = _CHAT_TEXT if answer.is_chat else _PLAIN_TEXT
        self._before: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Collect whatever events `data` completes. Raises Malformed."""
        blocks = self._splitter.feed(data)
        at = 0
        while at < len(blocks) and not self.seen.done:
            run = self._run(blocks, at)
            at += len(run) or 1
            if not run or not self._add_texts(run):
                for block in run or blocks[at - 1 : at]:
                    self._add_block(block)

    def pass_through(self, data: bytes) -> bool:
        """Do what `feed` does if `data` is whole text-only events; otherwise change nothing."""
        blocks = None if self._before is None else self._splitter.whole(data)
        return blocks is not None and len(self._run(blocks, 0)) == len(blocks) and self._add_texts(blocks)

    def _run(self, blocks: list[bytes], at: int) -> list[bytes]:
        """The blocks from `at` on that begin and end like text-only events."""
        before, behind, end = self._before, self._behind, at
        if before is not None:
            while end < len(blocks) and blocks[end].startswith(before) and blocks[end].endswith(behind):
                end += 1
        return blocks[at:end]

    def _add_texts(self, run: list[bytes]) -> bool:
        """Add the text of these blocks; returns False, and adds nothing, if they are not all text-only.

        The texts are parsed as one list. The separator between them occurs in no event and in no JSON string,
        so if the list has as many items as there are blocks, each block had exactly one.
        """
        assert self._before is not None
        begin, end = len(self._before), -len(self._behind)
        try:
            texts = orjson.loads(b"[" + b",\n\n".join([block[begin:end] for block in run]) + b"]")
        except orjson.JSONDecodeError:
            return False
        if len(texts) != len(run) or set(map(type, texts)) != {str}:
            return False
        self._text += texts
        self.seen.events += len(texts)
        return True

    def _add_block(self, block: bytes) -> None:
        event = read_event(block, self.seen)
        if event is not None:
            self._add(event)
            if self._before is None and self.seen.content:
                self._learn(block, event)

    def _learn(self, block: bytes, event: dict[str, Any]) -> None:
        """Take this event as the pattern of text-only events, if it is one."""
        choice, at = choice_of(event), block.find(self._name)
        if choice is None or at < 0 or choice.get("finish_reason") is not None:
            return
        if not delta_of(choice).keys() - _TEXT_ONLY:
            self._before = block[: at + len(self._name)]

    def end(self) -> None:
        """The connection ended. Only [DONE] completes an answer, so nothing changes."""

    def body(self) -> bytes:
        """The body; complete once `seen.done`."""
        choice = {"index": 0, "finish_reason": self._finish_reason, **self._part()}
        whole = {**self._fields, **self._answer.identity(streamed=False), "choices": [choice]}
        if self._usage is not None:
            whole["usage"] = self._usage
        return sse.dumps(whole)

    def _add(self, event: dict[str, Any]) -> None:
        choice = choice_of(event)
        if choice is None:
            self._usage = event["usage"]
            return
        if not self._fields:
            self._fields = {key: value for key, value in event.items() if key != "choices"}
        delta = delta_of(choice)
        self._text.append(delta.get("content") or delta.get("text") or "")
        self._reasoning.append(delta.get("reasoning") or "")
        self._tools += delta.get("tool_calls") or ()
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _part(self) -> dict[str, Any]:
        text = "".join(self._text)
        if not self._answer.is_chat:
            return {"text": text}
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if reasoning := "".join(self._reasoning):
            message["reasoning"] = reasoning
        add_reasoning_content(message)
        if self._tools:
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in self._tools]
        return {"message": message}


class WholeBody:
    """An answer requested unstreamed, which is the only way to get log probabilities from the child."""

    __slots__ = ("_answer", "_pieces", "_whole", "seen")

    def __init__(self, answer: Answer) -> None:
        self.seen = StreamProgress()
        self._answer = answer
        self._pieces: list[bytes] = []
        self._whole: dict[str, Any] = {}

    def feed(self, data: bytes) -> None:
        """Collect the bytes."""
        self._pieces.append(data)

    def pass_through(self, data: bytes) -> bool:
        """Collect the bytes; there is no slower way."""
        self._pieces.append(data)
        return True

    def end(self) -> None:
        """The connection ended, so the body must be complete. Raises Malformed."""
        whole = sse.loads(b"".join(self._pieces))
        choice = choice_of(whole)
        if choice is None:
            raise sse.Malformed("an answer without a choice")
        if isinstance(message := choice.get("message"), dict):
            add_reasoning_content(message)
        whole.update(self._answer.identity(streamed=False))
        self.seen.usage = Usage.of(whole.get("usage") or {})
        self.seen.content = self.seen.done = True
        self._whole = _finite(whole)

    def body(self) -> bytes:
        """The body; complete once `seen.done`."""
        return sse.dumps(self._whole)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _LEAST_LOGPROB
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
