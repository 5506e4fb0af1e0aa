"""Pure. Decides when a silent stream needs a keep-alive, and of which kind."""

from __future__ import annotations

from dataclasses import dataclass

#: Some agents' timeouts count parsed chunks only; the shortest known is 120 s, so half of that is safe.
EMPTY_EVENT_EVERY_S = 60.0


@dataclass(slots=True)
class KeepaliveClock:
    """Schedules the keep-alives of one stream. All times are in seconds on one monotonic clock.

    Attributes:
        keepalive_s: time between keep-alives.
        due: when to send the next one, unless an event is sent before.
        last_event: when the client last got an event rather than a comment.
    """

    keepalive_s: float
    due: float
    last_event: float

    @classmethod
    def begin(cls, now: float, *, grace_s: float, keepalive_s: float) -> KeepaliveClock:
        """A clock whose first keep-alive is due after `grace_s`."""
        return cls(keepalive_s=keepalive_s, due=now + grace_s, last_event=now)

    def event_sent(self, now: float) -> None:
        """Postpone the next keep-alive."""
        self.last_event = now
        self.due = now + self.keepalive_s

    def needs_event(self, now: float) -> bool:
        """Whether an event without content must be sent now, as the next keep-alive would be too late for it.

        If not, a comment will do, which parsers skip. Either is recorded as sent.
        """
        self.due = now + self.keepalive_s
        needed = self.due - self.last_event > EMPTY_EVENT_EVERY_S
        if needed:
            self.last_event = now
        return needed
