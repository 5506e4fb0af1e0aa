"""Pure. Writes the child's stream as events of the Messages API, or as one message."""

from __future__ import annotations

from typing import Any

from proxy.dialects.arguments import arguments_object
from proxy.dialects.child_parts import (
    AnswerPart,
    CallPart,
    PartReader,
    ReasoningPart,
    TextPart,
    parts_of,
    usage_of,
)
from proxy.dialects.messages import errors
from proxy.errors import GatewayError
from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage, choice_of

#: Clients drop thoughts that have no signature instead of sending them back. Ours is a constant, since what
#: differs would change the history.
SIGNATURE = "bWx4Z3VhcmQ="

#: How ids of messages begin.
ID_PREFIX = "msg_"

_PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class MessageForm:
    """How one answer is written: a `form.AnswerForm`. `prompt_tokens`: as counted before the stream."""

    def __init__(self, answer: Answer, prompt_tokens: int) -> None:
        self._answer = answer
        self._prompt_tokens = prompt_tokens

    def opening(self) -> bytes:
        """`message_start`, which must be the first event and the only one of its kind."""
        usage = {
            "input_tokens": self._prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        return _event("message_start", message=self._message([], None, usage))

    def writer(self) -> MessageWriter:
        return MessageWriter(self._answer, self._prompt_tokens)

    def keepalive(self, comment: str, *, empty_event: bool) -> bytes:
        return sse.comment(comment) + _PING

    def failure(self, error: GatewayError) -> bytes:
        return errors.event(error)

    def whole(self, body: bytes) -> bytes:
        completion = sse.loads(body)
        choice = choice_of(completion) or {}
        parts = parts_of(choice.get("message") or {})
        usage = _usage(usage_of(completion, self._prompt_tokens))
        blocks = [_block(part, index, self._answer) for index, part in enumerate(parts)]
        called = any(isinstance(part, CallPart) for part in parts)
        return sse.dumps(self._message(blocks, _stop_reason(choice.get("finish_reason"), called), usage))

    def _message(self, content: list[Any], stop_reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self._answer.id,
            "type": "message",
            "role": "assistant",
            "model": self._answer.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


class MessageWriter:
    """Writes one attempt, from its first block to `message_stop`. A block stays open until another begins."""

    __slots__ = ("_answer", "_called", "_closed", "_index", "_open", "_prompt_tokens", "_reader", "seen")

    def __init__(self, answer: Answer, prompt_tokens: int) -> None:
        self._reader = PartReader()
        self.seen: StreamProgress = self._reader.seen
        self._answer = answer
        self._prompt_tokens = prompt_tokens
        self._open: type[AnswerPart] | None = None
        self._index = -1
        self._called = False
        self._closed = False

    def feed(self, data: bytes) -> bytes:
        out = [self._write(part) for part in self._reader.feed(data)]
        if self.seen.done and not self._closed:
            self._closed = True
            out.append(self._close())
        return b"".join(out)

    def pass_through(self, data: bytes) -> bytes | None:
        if self._open is not TextPart or (text := self._reader.text_only(data)) is None:
            return None
        return self._delta("text_delta", text=text)

    def _write(self, part: AnswerPart) -> bytes:
        match part:
            case TextPart(text):
                return self._begin(part, {"type": "text", "text": ""}) + self._delta("text_delta", text=text)
            case ReasoningPart(text):
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._begin(part, empty) + self._delta("thinking_delta", thinking=text)
            case CallPart(id, name, arguments):
                self._called = True
                # Each call is a block of its own, also one that follows a call.
                ended = self._end()
                id = id or _call_id(self._answer, self._index + 1)
                begun = self._begin(part, {"type": "tool_use", "id": id, "name": name, "input": {}})
                return ended + begun + self._delta("input_json_delta", partial_json=arguments)

    def _begin(self, part: AnswerPart, empty: dict[str, Any]) -> bytes:
        if self._open is type(part):
            return b""
        ended = self._end()
        self._open = type(part)
        self._index += 1
        return ended + _event("content_block_start", index=self._index, content_block=empty)

    def _end(self) -> bytes:
        if self._open is None:
            return b""
        signed = b""
        if self._open is ReasoningPart:
            signed = self._delta("signature_delta", signature=SIGNATURE)
        self._open = None
        return signed + _event("content_block_stop", index=self._index)

    def _delta(self, kind: str, **value: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **value})

    def _close(self) -> bytes:
        usage = self.seen.usage or Usage(self._prompt_tokens, self.seen.events, None)
        reason = _stop_reason(self._reader.finish_reason, self._called)
        delta = {"stop_reason": reason, "stop_sequence": None}
        ended = _event("message_delta", delta=delta, usage=_usage(usage))
        return self._end() + ended + _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + sse.event({"type": kind, **fields})


def _stop_reason(finish_reason: str | None, called: bool) -> str:
    """The child does not tell a stop sequence from the model's own end. `tool_use` needs a call to be run."""
    if finish_reason == "length":
        return "max_tokens"
    return "tool_use" if called else "end_turn"


def _usage(usage: Usage) -> dict[str, int]:
    """Token counts that add up to the prompt. A client that reads no input tokens keeps its older number,
    so at least one token is always counted as new."""
    cached = max(0, min(usage.cached_tokens or 0, usage.prompt_tokens - 1))
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def _call_id(answer: Answer, index: int) -> str:
    """The id of a call to which the child gave none; unique in a conversation, as the answer's id is."""
    return f"toolu_{answer.id.removeprefix(ID_PREFIX)}_{index}"


def _block(part: AnswerPart, index: int, answer: Answer) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ReasoningPart(text):
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        case CallPart(id, name, arguments):
            id = id or _call_id(answer, index)
            return {"type": "tool_use", "id": id, "name": name, "input": arguments_object(arguments)}
