"""The Responses protocol as a state machine: what a client may be sent, and in which order."""

from __future__ import annotations

from typing import Any

from tests.support.messages_protocol import events_of

_ENDS = {"response.completed", "response.incomplete", "response.failed"}
#: What grows an item: the event's name without its ending, by the item's type, and the event's own field.
_GROWTH = {
    "message": ("response.output_text", "text"),
    "reasoning": ("response.reasoning_text", "text"),
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}


class ResponsesClient:
    """Follows one stream; fails at the first event that the protocol does not allow where it comes.

    `output` are the items that are done; `response` is the last state that was told.
    """

    def __init__(self) -> None:
        self.response: dict[str, Any] | None = None
        self.output: list[dict[str, Any]] = []
        self.ended = False
        self._numbers = 0
        self._open: dict[str, Any] | None = None
        self._text = ""
        self._part: dict[str, Any] | None = None
        self._told = False

    def read(self, stream: bytes) -> ResponsesClient:
        for event in events_of(stream):
            self._take(event)
        return self

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert not self.ended, f"after the end: {event}"
        assert event["sequence_number"] == self._numbers, "a number that is not the next"
        self._numbers += 1
        if "response" in event:
            self._state(kind, event["response"])
        elif kind == "response.output_item.added":
            self._added(event)
        elif kind == "response.output_item.done":
            self._done(event)
        else:
            self._grown(kind, event)

    def _state(self, kind: str, response: dict[str, Any]) -> None:
        assert (self.response is None) == (kind == "response.created"), kind
        assert self.response is None or self.response["id"] == response["id"]
        assert kind in _ENDS or response["status"] == "in_progress"
        self.response = response
        if kind in _ENDS:
            assert kind == f"response.{response['status']}"
            assert kind == "response.failed" or self._open is None, "an end within an item"
            assert response["output"] == self.output
            assert (response["error"] is not None) == (kind == "response.failed")
            self.ended = True

    def _added(self, event: dict[str, Any]) -> None:
        assert self.response is not None, "an item before the start"
        assert self._open is None, "an item within an item"
        assert event["output_index"] == len(self.output)
        self._open, self._text, self._part, self._told = event["item"], "", None, False
        assert self._open["status"] == "in_progress"

    def _grown(self, kind: str, event: dict[str, Any]) -> None:
        assert self._open is not None, f"outside an item: {kind}"
        assert event["item_id"] == self._open["id"]
        assert event["output_index"] == len(self.output)
        name, field = _GROWTH[self._open["type"]]
        match kind.removeprefix(name), kind:
            case ".delta", _:
                assert not self._told
                assert self._part is not None or "content" not in self._open
                self._text += event["delta"]
            case ".done", _:
                assert event[field] == self._text
                self._told = True
            case _, "response.content_part.added":
                assert self._part is None
                self._part = event["part"]
                assert self._part["text"] == ""
            case _, "response.content_part.done":
                assert self._told
                assert event["part"]["text"] == self._text
            case _:
                raise AssertionError(kind)

    def _done(self, event: dict[str, Any]) -> None:
        item = event["item"]
        assert self._open is not None, "the end of no item"
        assert self._told, "an item that was never whole"
        assert (item["id"], item["type"]) == (self._open["id"], self._open["type"])
        assert item["status"] == "completed"
        _, field = _GROWTH[item["type"]]
        assert (item["content"][0]["text"] if "content" in item else item[field]) == self._text
        self.output.append(item)
        self._open = None
