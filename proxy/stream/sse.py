"""Pure. Server-sent events as the child writes and clients read them: splitting a byte stream, serializing.

The child ends each event with one empty line (bare LF), and its JSON contains no raw newline
(mlx_lm/server.py, handle_completion), so an event is what lies between two `\\n\\n`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

END = b"\n\n"
DATA = b"data: "
DONE = b"data: [DONE]"

#: Largest event, which is buffered whole before it is rewritten. Tool arguments of megabytes are real; a
#: child that never ends an event must not fill the gateway's memory.
MAX_EVENT_BYTES = 64 * 1024 * 1024


class Malformed(ValueError):
    """The child sent something that is not an event of its API."""


class EventSplitter:
    """Cuts a byte stream into events, whatever pieces it arrives in, in time linear in its length."""

    __slots__ = ("_held", "_held_bytes")

    def __init__(self) -> None:
        self._held: list[bytes] = []  # pieces of the event that has not ended
        self._held_bytes = 0

    def whole(self, data: bytes) -> list[bytes] | None:
        """What `feed` would return if `data` is whole events and none is buffered, else None. No effect."""
        return None if self._held or not data.endswith(END) else data.split(END)[:-1]

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, without their ending. Raises Malformed if one never ends."""
        if not self._held:
            events = data.split(END)
        elif END in data or (data[:1] == b"\n" and self._held[-1].endswith(b"\n")):
            self._held.append(data)
            events = b"".join(self._held).split(END)
            self._held.clear()
            self._held_bytes = 0
        else:
            events = [data]
        rest = events.pop()
        if rest:
            self._hold(rest)
        return events

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > MAX_EVENT_BYTES:
            raise Malformed("an event without end")


def loads(payload: bytes) -> dict[str, Any]:
    """Parse a JSON object from the child. Raises Malformed.

    The child writes with the standard library, which allows what strict JSON does not: a model can put a lone
    surrogate into tool arguments, and log probabilities can be -Infinity.
    """
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def dumps(value: Mapping[str, Any]) -> bytes:
    """Serialize to JSON; a lone surrogate stays the escape that the child wrote. Raises Malformed."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        try:
            return json.dumps(value).encode("ascii")
        except RecursionError:
            raise Malformed("nested too deep") from None


def event(value: Mapping[str, Any]) -> bytes:
    """A complete data event."""
    return DATA + dumps(value) + END


def comment(text: str) -> bytes:
    """A complete comment: parsers skip it, and it resets timeouts that count bytes."""
    return f": {text}\n\n".encode()


def prefill_progress(comment_line: bytes) -> tuple[int, int] | None:
    """(processed, total) prompt tokens from the child's `: keepalive 512/2048`, else None."""
    words = comment_line.split()
    if len(words) != 3 or words[1] != b"keepalive":
        return None
    processed, slash, total = words[2].partition(b"/")
    return (int(processed), int(total)) if slash and processed.isdigit() and total.isdigit() else None
