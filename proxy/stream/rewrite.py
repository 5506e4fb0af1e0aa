"""Pure. Rewrites the child's stream under the answer's identity: events keep their content, not their id."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, add_reasoning_content, choice_of, delta_of, read_event

#: Where the head of an event ends.
_CHOICES = b'"choices": ['
#: Events with reasoning are parsed, since a field is added to them.
_REASONING = b'"reasoning": '
#: Fields of an event that are replaced by the answer's identity.
_REPLACED = frozenset({"id", "object", "created", "model"})


class Rewriter:
    """Rewrites the stream of one attempt. A replay needs a new one, since its events have another head.

    All events of an attempt begin with the same bytes, up to `"choices": [`. This head is learned from the
    first event and replaced in the others without parsing, which lets a burst pass at a microsecond per
    event. Quotes in JSON text are always escaped, so the bytes that are searched for cannot occur in
    generated text.
    """

    __slots__ = ("_answer", "_head", "_include_usage", "_our_head", "_splitter", "seen")

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        self.seen = StreamProgress()
        self._answer = answer
        self._include_usage = include_usage
        self._splitter = sse.EventSplitter()
        self._head: bytes | None = None
        self._our_head = b""

    def pass_through(self, data: bytes) -> bytes | None:
        """Do what `feed` does if `data` is whole events of which only the head changes.

        Otherwise return None and change nothing.
        """
        if (head := self._head) is None or (blocks := self._splitter.whole(data)) is None:
            return None
        for block in blocks:
            if not block.startswith(head) or _REASONING in block:
                return None
        self.seen.events += len(blocks)
        return b"".join([part for block in blocks for part in (self._our_head, block[len(head) :], sse.END)])

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client: whatever events `data` completes, rewritten. Raises Malformed."""
        if (passed := self.pass_through(data)) is not None:
            return passed
        out: list[bytes] = []
        seen, head, our_head = self.seen, self._head, self._our_head
        for block in self._splitter.feed(data):
            if head is not None and block.startswith(head) and _REASONING not in block:
                seen.events += 1
                out += (our_head, block[len(head) :], sse.END)
            elif not seen.done:
                out.append(self._read(block))
                head, our_head = self._head, self._our_head
        return b"".join(out)

    def _read(self, block: bytes) -> bytes:
        event = read_event(block, self.seen)
        if self.seen.done:
            self._head = None  # what follows is not part of the answer
            return sse.DONE + sse.END
        if event is None:
            return b""
        if self._head is None and self.seen.content:
            self._learn(block, event)
        return self._rewritten(event)

    def _rewritten(self, event: dict[str, Any]) -> bytes:
        choice = choice_of(event)
        if choice is None and not self._include_usage:
            return b""
        if choice is not None:
            add_reasoning_content(delta_of(choice))
        event.update(self._answer.identity(streamed=True))
        return sse.event(event)

    def _learn(self, block: bytes, event: dict[str, Any]) -> None:
        """Learn the head, if all fields that we replace precede the choices; else every event is parsed."""
        before = set(takewhile(lambda key: key != "choices", event))
        at = block.find(_CHOICES)
        if at < 0 or not before >= _REPLACED:
            return
        fields = {key: event[key] for key in event if key in before}
        fields.update(self._answer.identity(streamed=True))
        self._head = block[: at + len(_CHOICES)]
        self._our_head = sse.DATA + sse.dumps(fields)[:-1] + b"," + _CHOICES
