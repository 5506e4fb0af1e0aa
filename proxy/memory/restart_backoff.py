"""Pure. Spacing of planned restarts that take back memory: each one that gained little waits longer."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds between two recycles for memory, at first; twice as long after each, up to a day.
RECYCLE_S = 600.0

_LONGEST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """Planned restarts for memory: never in a loop. Monotonic seconds."""

    last: float | None = None
    count: int = 0

    def due(self, now: float) -> bool:
        """Whether there may be one now."""
        if self.last is None:
            return True
        return now - self.last >= min(RECYCLE_S * 2.0 ** (self.count - 1), _LONGEST_S)

    def after(self, now: float) -> RestartBackoff:
        """There was one. After a quiet day the first pause holds again."""
        quiet = self.last is None or now - self.last >= _LONGEST_S
        return RestartBackoff(now, 1 if quiet else self.count + 1)
