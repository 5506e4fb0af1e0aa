"""Pure. Timeouts of one client connection: for a request's head, for its body, and for reading a response.

All times are seconds on one monotonic clock, which the caller reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Seconds over which a body's rate counts: a laptop that swaps may pause that long without malice.
_RATE_S = 10.0


class Lateness(Enum):
    """What a client is too slow with."""

    HEAD = "head"
    READING = "reading"


@dataclass(slots=True)
class ConnectionTimeouts:
    """The timers of one connection.

    Attributes:
        head_s: longest time for a request's head, from its first byte (for the first request, from the
            opening of the connection).
        reading_s: longest time that a client may read nothing while data waits for it.
        head_since: when the head that is arriving began; None between requests and while one is served.
    """

    head_s: float
    reading_s: float
    head_since: float | None
    _serving: bool = False
    _stuck_since: float | None = None
    _last_unsent: int = 0

    def data_received(self, now: float) -> None:
        """Data arrived; between requests, it starts a head."""
        if not self._serving and self.head_since is None:
            self.head_since = now

    def request_began(self) -> None:
        """A head is complete; further data is a body, or a pipelined request."""
        self.head_since, self._serving = None, True

    def request_ended(self) -> None:
        """The response was written; the connection is idle."""
        self._serving = False

    def late(self, now: float, *, unsent: int, writing_paused: bool) -> Lateness | None:
        """Whether the client is too slow, and with what; called once a second.

        `unsent`: bytes in the write buffer. It measures the reader only while the writer is paused or done;
        otherwise the writer itself makes it grow.
        """
        if self.head_since is not None and now - self.head_since >= self.head_s:
            return Lateness.HEAD
        waiting = unsent > 0 and (writing_paused or not self._serving)
        if not waiting or self._stuck_since is None or unsent < self._last_unsent:
            self._stuck_since = now if waiting else None
        self._last_unsent = unsent
        if self._stuck_since is not None and now - self._stuck_since >= self.reading_s:
            return Lateness.READING
        return None


class BodyClock:
    """Says until when more of a body must arrive.

    The rate of the last seconds counts, so that a body that came fast at first cannot then be held open.

    Args:
        begun: when its head was complete.
        total_s: longest time for the whole body.
        bytes_per_s: least rate over each period of `_RATE_S`.
    """

    def __init__(self, begun: float, *, total_s: float, bytes_per_s: float) -> None:
        self._end = begun + total_s
        self._least = bytes_per_s * _RATE_S
        self._since, self._arrived = begun, 0

    def arrived(self, size: int, now: float) -> None:
        """Note that `size` bytes arrived."""
        self._arrived += size
        if self._arrived >= self._least:
            self._since, self._arrived = now, 0

    @property
    def deadline(self) -> float:
        """When more must have arrived."""
        return min(self._end, self._since + _RATE_S)
