"""How long a client may take: to send its request's head, its body, and to read what it is sent.

Times are seconds on one monotonic clock that the caller reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: A body may pause this long before its rate counts; a laptop that swaps is no attacker.
_BODY_GRACE_S = 10.0


class Lateness(Enum):
    """What a connection is too late with."""

    HEAD = "head"
    READING = "reading"


@dataclass(slots=True)
class ConnectionTimeouts:
    """One connection's clocks.

    Attributes:
        head_s: the head of a request must have arrived this long after its first byte, and the first of a
            connection this long after the connection.
        reading_s: a client that takes nothing of what is waiting for it is given up after this long.
    """

    head_s: float
    reading_s: float
    _head_since: float | None
    _serving: bool = False
    _stuck_since: float | None = None
    _left: int = 0

    @classmethod
    def begin(cls, now: float, *, head_s: float, reading_s: float) -> ConnectionTimeouts:
        return cls(head_s, reading_s, now)

    def bytes_came(self, now: float) -> None:
        """The client sent something; between requests it is the start of a head."""
        if not self._serving and self._head_since is None:
            self._head_since = now

    def request_began(self) -> None:
        """A head is complete; what comes now is body, or waits its turn."""
        self._head_since, self._serving = None, True

    def request_ended(self) -> None:
        """The answer is written; the connection is idle."""
        self._serving = False

    def late(self, now: float, *, unsent: int, writing_paused: bool) -> Lateness | None:
        """Whether, and with what. `unsent`: bytes in our buffer; asked about once a second.

        Only a writer that waits (or has ended) makes `unsent` a measure of the reader: else it grows.
        """
        if self._head_since is not None and now - self._head_since >= self.head_s:
            return Lateness.HEAD
        waiting = unsent > 0 and (writing_paused or not self._serving)
        if not waiting or self._stuck_since is None or unsent < self._left:
            self._stuck_since = now if waiting else None
        self._left = unsent
        if self._stuck_since is not None and now - self._stuck_since >= self.reading_s:
            return Lateness.READING
        return None


def body_due(begun: float, received: int, *, whole_s: float, bytes_per_s: float) -> float:
    """When more of a body must have come: at least so fast after a grace, and all of it in `whole_s`."""
    return begun + min(whole_s, _BODY_GRACE_S + received / bytes_per_s)
