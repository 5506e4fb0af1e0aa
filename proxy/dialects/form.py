"""Pure. What the relay needs of a protocol to send one answer: its first bytes, its events, its end."""

from __future__ import annotations

from typing import Protocol

from proxy.errors import GatewayError
from proxy.stream.child_stream import StreamProgress


class EventWriter(Protocol):
    """Turns the child's stream into the client's, for one attempt. `stream.rewrite.Rewriter` is one, too."""

    seen: StreamProgress

    def feed(self, data: bytes) -> bytes:
        """What the client gets for `data`: whole events, in one piece. Raises Malformed."""

    def pass_through(self, data: bytes) -> bytes | None:
        """What `feed` would give, if `data` is the common kind; else None, and nothing has changed."""


class AnswerForm(Protocol):
    """How one answer is written. One per request; only its `writer` is new for each attempt."""

    def opening(self) -> bytes:
        """What follows the headers, once, before anything else. May be empty."""

    def writer(self) -> EventWriter:
        """The writer of a new attempt. Of an earlier one, only the opening and signs of life were sent."""

    def keepalive(self, comment: str, *, empty_event: bool) -> bytes:
        """A sign of life. `empty_event`: the client is due one that its parser sees, not only its socket."""

    def failure(self, error: GatewayError) -> bytes:
        """The end of a stream that cannot be completed; the connection is closed after it."""

    def whole(self, body: bytes) -> bytes:
        """The unstreamed answer, from the chat completion with the same content. Raises Malformed."""
