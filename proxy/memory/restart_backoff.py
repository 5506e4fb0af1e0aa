"""Pure. Spacing of the planned restarts that take back memory, so that they never happen in a loop."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds between the first two restarts for memory; the pause doubles after each.
RECYCLE_S = 600.0

#: The longest pause, in seconds. After as long without a restart, the first pause holds again.
_LONGEST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """The last restart, in monotonic seconds, and the number of restarts without a quiet day in between."""

    last: float | None = None
    count: int = 0

    def due(self, now: float) -> bool:
        """Whether there may be a restart now."""
        if self.last is None:
            return True
        return now - self.last >= min(RECYCLE_S * 2.0 ** (self.count - 1), _LONGEST_S)

    def after(self, now: float) -> RestartBackoff:
        """The back-off after a restart at `now`."""
        quiet = self.last is None or now - self.last >= _LONGEST_S
        return RestartBackoff(now, 1 if quiet else self.count + 1)
