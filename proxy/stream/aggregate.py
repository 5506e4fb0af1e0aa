"""A streamed answer put together: the one JSON body that the child would have sent unstreamed.

Mirrors generate_response in server.py: `content` is null when there is no text, `text` never is,
`reasoning` and `tool_calls` are there only when not empty, and tool calls carry no `index`.
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

#: What OpenAI documents for a token that is not among the likely ones; JSON has no -Infinity.
_LEAST_LOGPROB = -9999.0


#: What a delta, or a choice of a plain text, has that says no more than its text.
_TEXT_ALONE = frozenset({"role", "content", "index", "finish_reason", "text"})

#: What stands around the text where an event has nothing else to say: its name, and what closes the event.
_CHAT_TEXT, _PLAIN_TEXT = (b'"content": ', b"}}]}"), (b'"text": ', b"}]}")


class Aggregator:
    """Collects the stream of one attempt.

    Nearly all events of a run differ in their text alone. What stands before it is learned from the first
    such event; of those that begin and end alike, only the text between is parsed, of a whole run at once. If
    there is anything but one string between, each event of the run is read like any other.
    """

    __slots__ = (
        "_answer",
        "_before",
        "_behind",
        "_fields",
        "_finish_reason",
        "_name",
        "_reasoning",
        "_splitter",
        "_text",
        "_tools",
        "_usage",
        "seen",
    )

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
        """Raises Malformed."""
        blocks = self._splitter.feed(data)
        at = 0
        while at < len(blocks) and not self.seen.done:
            run = self._run(blocks, at)
            at += len(run) or 1
            if not run or not self._add_texts(run):
                for block in run or blocks[at - 1 : at]:
                    self._add_block(block)

    def pass_through(self, data: bytes) -> bool:
        """`feed`, if `data` is whole events of text alone; else nothing has changed."""
        blocks = None if self._before is None else self._splitter.whole(data)
        return blocks is not None and len(self._run(blocks, 0)) == len(blocks) and self._add_texts(blocks)

    def _run(self, blocks: list[bytes], at: int) -> list[bytes]:
        """Those from `at` on that begin and end as events of text alone do."""
        before, behind, end = self._before, self._behind, at
        if before is not None:
            while end < len(blocks) and blocks[end].startswith(before) and blocks[end].endswith(behind):
                end += 1
        return blocks[at:end]

    def _add_texts(self, run: list[bytes]) -> bool:
        """Whether they were events of text alone, and are now counted.

        They are parsed as one list. What is put between them is in no event and no string of JSON, so each is
        one string if the list has as many.
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
        """Take this event as the pattern of others, if it is one of text alone."""
        choice, at = choice_of(event), block.find(self._name)
        if choice is None or at < 0 or choice.get("finish_reason") is not None:
            return
        if not delta_of(choice).keys() - _TEXT_ALONE:
            self._before = block[: at + len(self._name)]

    def end(self) -> None:
        """The connection ended; only [DONE] makes an answer complete, so nothing changes."""

    def body(self) -> bytes:
        """The answer; complete once `seen.done`."""
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
    """An answer asked for unstreamed: only so does the child report log probabilities."""

    __slots__ = ("_answer", "_pieces", "_whole", "seen")

    def __init__(self, answer: Answer) -> None:
        self.seen = StreamProgress()
        self._answer = answer
        self._pieces: list[bytes] = []
        self._whole: dict[str, Any] = {}

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)

    def pass_through(self, data: bytes) -> bool:
        """`feed`, which is done at once."""
        self._pieces.append(data)
        return True

    def end(self) -> None:
        """The connection ended: the body is complete if it is one. Raises Malformed."""
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
        return sse.dumps(self._whole)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _LEAST_LOGPROB
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
