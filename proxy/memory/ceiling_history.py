"""What follows from a ceiling that moves: what may come back soon, and when a wider child is worth a restart.

Pure. Another program that takes memory lowers the ceiling, and it rises again when that one ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: What was there within this time may be there again soon: who needs it waits instead of being refused.
RECENT_S = 120.0
#: A child that was started while memory was scarce is started anew when more would be planned for so long,
WIDER_S = 120.0
#: and not again for so long.
REST_S = 1800.0


@dataclass(frozen=True, slots=True)
class RecentCeilings:
    """The ceilings of the last minutes, as (seconds, bytes); only those that no later one exceeds."""

    seen: tuple[tuple[float, int], ...] = ()

    def after(self, ceiling: int, now: float) -> RecentCeilings:
        kept = [(at, size) for at, size in self.seen if size > ceiling and now - at <= RECENT_S]
        return RecentCeilings((*kept, (now, ceiling)))

    @property
    def most(self) -> int:
        """The highest of them; 0 before there is any."""
        return self.seen[0][1] if self.seen else 0


@dataclass(frozen=True, slots=True)
class PlanWidth:
    """How much a plan lets in."""

    running: int
    max_prompt: int | None  # tokens; None: no limit

    def much_more_than(self, other: PlanWidth) -> bool:
        """By a session, or by a quarter of the longest prompt."""
        if self.running != other.running:
            return self.running > other.running
        if other.max_prompt is None or self.max_prompt is None:
            return other.max_prompt is not None
        return self.max_prompt >= 1.25 * other.max_prompt


@dataclass(frozen=True, slots=True)
class Widening:
    """Whether the child is narrower than it need be: since when, and when that was last mended."""

    since: float | None = None
    mended: float | None = None

    def after(self, running: PlanWidth, planned: PlanWidth, now: float) -> Widening:
        if not planned.much_more_than(running):
            return replace(self, since=None)
        return replace(self, since=now if self.since is None else self.since)

    def due(self, now: float) -> bool:
        rested = self.mended is None or now - self.mended >= REST_S
        return rested and self.since is not None and now - self.since >= WIDER_S
