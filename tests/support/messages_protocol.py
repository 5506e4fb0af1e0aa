"""The Messages protocol as a state machine: what a client may be sent, and in which order."""

from __future__ import annotations

import json
from typing import Any

_DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream; comments are left out. Fails where an event's two names differ."""
    assert not stream or stream.endswith(b"\n\n"), stream[-80:]
    events = []
    for block in stream.split(b"\n\n")[:-1]:
        if block.startswith(b":"):
            continue
        name, _, data = block.partition(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode(), block
        events.append(event)
    return events


class MessagesClient:
    """Follows one stream; fails at the first event that the protocol does not allow where it comes.

    `message` is what the client has put together; `error` what ended the stream instead of `message_stop`.
    """

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.stopped = False
        self._open: dict[str, Any] | None = None
        self._input = ""
        self._ended = False

    def read(self, stream: bytes) -> MessagesClient:
        for event in events_of(stream):
            self._take(event)
        return self

    def _take(self, event: dict[str, Any]) -> None:
        assert not self.stopped, f"after the end: {event}"
        assert self.error is None, f"after an error: {event}"
        getattr(self, f"_{event['type']}")(event)

    def _ping(self, event: dict[str, Any]) -> None:
        assert event == {"type": "ping"}

    def _error(self, event: dict[str, Any]) -> None:
        assert isinstance(event["error"]["message"], str)
        self.error = event["error"]

    def _message_start(self, event: dict[str, Any]) -> None:
        assert self.message is None, "a second start"
        self.message = event["message"]
        assert self.message["content"] == []
        assert self.message["stop_reason"] is None
        assert self.message["role"] == "assistant"

    def _content_block_start(self, event: dict[str, Any]) -> None:
        assert self.message is not None, "a block before the start"
        assert self._open is None, "a block within a block"
        assert not self._ended, "a block after the message's end"
        assert event["index"] == len(self.message["content"])
        self._open = event["content_block"]
        empty = {
            "text": {"text": ""},
            "thinking": {"thinking": "", "signature": ""},
            "tool_use": {"input": {}},
        }
        kind = self._open["type"]
        assert {k: v for k, v in self._open.items() if k not in ("type", "id", "name")} == empty[kind]
        assert kind != "tool_use" or self._open["id"]
        self._input = ""
        self.message["content"].append(self._open)

    def _content_block_delta(self, event: dict[str, Any]) -> None:
        assert self._open is not None, "a delta outside a block"
        assert self.message is not None
        assert event["index"] == len(self.message["content"]) - 1
        delta = event["delta"]
        field = _DELTAS[self._open["type"]][delta["type"]]
        if field == "partial_json":
            self._input += delta[field]
        else:
            self._open[field] += delta[field]

    def _content_block_stop(self, event: dict[str, Any]) -> None:
        assert self._open is not None, "the end of no block"
        assert self.message is not None
        assert event["index"] == len(self.message["content"]) - 1
        if self._open["type"] == "tool_use":
            self._open["input"] = self._input
        self._open = None

    def _message_delta(self, event: dict[str, Any]) -> None:
        assert self.message is not None
        assert self._open is None, "an end within a block"
        assert not self._ended, "a second end"
        self._ended = True
        self.message["stop_reason"] = event["delta"]["stop_reason"]
        self.message["usage"].update(event["usage"])

    def _message_stop(self, event: dict[str, Any]) -> None:
        assert self._ended, "a stop without a reason"
        self.stopped = True
