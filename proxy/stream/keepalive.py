"""When a silent stream needs a sign of life, and which."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

#: Some agents' timers count parsed chunks only; the shortest known is 120 s. Twice as often is safe.
EMPTY_EVENT_EVERY_S = 60.0


class KeepaliveSign(Enum):
    COMMENT = auto()
    EMPTY_EVENT = auto()


@dataclass(slots=True)
class KeepaliveClock:
    """All times in seconds on one monotonic clock.

    Attributes:
        due: when the next sign is to be sent, if nothing else is.
        last_event: when the client last got an event, not a comment.
    """

    keepalive_s: float
    due: float
    last_event: float

    @classmethod
    def begin(cls, now: float, *, grace_s: float, keepalive_s: float) -> KeepaliveClock:
        return cls(keepalive_s=keepalive_s, due=now + grace_s, last_event=now)

    def event_sent(self, now: float) -> None:
        self.last_event = now
        self.due = now + self.keepalive_s

    def sign(self, now: float) -> KeepaliveSign:
        """The sign to send now; counts as sent. An empty event if the next chance would be too late."""
        self.due = now + self.keepalive_s
        if self.due - self.last_event <= EMPTY_EVENT_EVERY_S:
            return KeepaliveSign.COMMENT
        self.last_event = now
        return KeepaliveSign.EMPTY_EVENT
