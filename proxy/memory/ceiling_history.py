"""Pure. A ceiling that moves: what may come back soon, and when a wider child is worth a restart.

Another program that takes memory lowers the ceiling; it rises again when that program ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: A ceiling of the last this many seconds may come back soon: a request that it would admit waits for it.
RECENT_S = 120.0
#: A child that was started while memory was scarce is restarted after a wider plan has held for this long.
WIDER_S = 120.0
#: The least time between two such restarts, in seconds.
REST_S = 1800.0


@dataclass(frozen=True, slots=True)
class RecentCeilings:
    """The ceilings of the last minutes as (seconds, bytes), without those that a later one exceeds."""

    entries: tuple[tuple[float, int], ...] = ()

    def after(self, ceiling: int, now: float) -> RecentCeilings:
        higher = [(at, size) for at, size in self.entries if size > ceiling and now - at <= RECENT_S]
        return RecentCeilings((*higher, (now, ceiling)))

    @property
    def highest(self) -> int:
        """The highest of them; 0 before there is any."""
        return self.entries[0][1] if self.entries else 0


@dataclass(frozen=True, slots=True)
class PlanWidth:
    """How much a plan admits: concurrent requests, and the longest prompt in tokens (None: no limit)."""

    running: int
    max_prompt: int | None

    def much_more_than(self, other: PlanWidth) -> bool:
        """Whether it is wider by a session, or by a quarter of the longest prompt."""
        if self.running != other.running:
            return self.running > other.running
        if other.max_prompt is None or self.max_prompt is None:
            return other.max_prompt is not None
        return self.max_prompt >= 1.25 * other.max_prompt


@dataclass(frozen=True, slots=True)
class Widening:
    """Since when a much wider plan than the child's has been possible, and the last restart for one."""

    since: float | None = None
    restarted_at: float | None = None

    def after(self, running: PlanWidth, planned: PlanWidth, now: float) -> Widening:
        if not planned.much_more_than(running):
            return replace(self, since=None)
        return replace(self, since=now if self.since is None else self.since)

    def due(self, now: float) -> bool:
        """Whether a restart is worth it now."""
        rested = self.restarted_at is None or now - self.restarted_at >= REST_S
        return rested and self.since is not None and now - self.since >= WIDER_S
