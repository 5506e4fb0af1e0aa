"""What deaths for want of memory teach about the ceiling: lowered at once, raised again with time (pure).

What is learned is a share of the ceiling that machine and settings give, not a number of bytes: free memory
differs from start to start, and a death while other programs held most of it must not become a small
limit for ever. Every change is one bounded step, so that no single outlier moves anything far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from supervisor.memory_model.ceiling import Bound, gb

#: One death takes the share to 95 % of what was seen to kill, and by no less or more than this.
_UNDER = 0.95
_LEAST_STEP, _MOST_STEP = 0.97, 0.90

#: Below this it is not the ceiling that is wrong.
LEAST_SHARE = 0.5

#: One raise gives back half of what is missing, this at most; what is then missing less than `_WHOLE` is all.
_RAISE = 0.02
_WHOLE = 0.005

#: Seconds of work without such a death before the first raise. Each further death doubles it, up to the most.
STABLE_S = 1800.0
LONGEST_STABLE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class MemoryDeath:
    """One death for want of memory, by telemetry. Bytes; `at`: wall-clock seconds.

    `held`: the most that MLX had active in the last seconds. `ceiling`: what was in force.
    """

    cause: str
    held: int
    ceiling: int
    at: float


@dataclass(frozen=True, slots=True)
class LearnedCeiling:
    """What holds now.

    Attributes:
        share: of the ceiling that machine and settings give.
        deaths: that it follows from.
        last: the newest of them; None while nothing was learned.
        worked_s: seconds of work since the share last changed.
    """

    share: float = 1.0
    deaths: int = 0
    last: MemoryDeath | None = None
    worked_s: float = 0.0

    @property
    def stable_s(self) -> float:
        """Seconds of work that the next raise takes."""
        return min(STABLE_S * 2.0 ** min(max(0, self.deaths - 1), 32), LONGEST_STABLE_S)

    @property
    def reason(self) -> str:
        """A clause: what was learned, and from what."""
        if self.last is None:
            return "nothing was learned"
        times = "a death" if self.deaths == 1 else f"{self.deaths} deaths"
        return (
            f"{self.share:.0%} of what else would be allowed, learned from {times} for want of memory "
            f"(the last: {self.last.cause} at {gb(self.last.held)} of {gb(self.last.ceiling)})"
        )


def lowered(learned: LearnedCeiling, death: MemoryDeath) -> LearnedCeiling:
    """After one more death. Where more was held than was allowed, the ceiling was hardly what was wrong."""
    seen = _UNDER * death.held / max(1, death.ceiling)
    step = max(_MOST_STEP, min(_LEAST_STEP, seen))
    return LearnedCeiling(max(LEAST_SHARE, learned.share * step), learned.deaths + 1, death)


def worked(learned: LearnedCeiling, seconds: float) -> LearnedCeiling:
    """After so many more seconds of work that nothing died of; one raise at most."""
    if learned.last is None:
        return learned
    so_far = learned.worked_s + max(0.0, seconds)
    if so_far < learned.stable_s:
        return replace(learned, worked_s=so_far)
    missing = 1.0 - learned.share
    if missing < _WHOLE:
        return LearnedCeiling()
    return replace(learned, share=learned.share + min(_RAISE, missing / 2), worked_s=0.0)


def bound(learned: LearnedCeiling, allowed: int) -> Bound | None:
    """The bound that follows for a child that machine and settings allow so many bytes; None: no other."""
    if learned.last is None:
        return None
    return Bound(round(learned.share * allowed), learned.reason)


# As JSON, for a file


def to_json(learned: LearnedCeiling) -> dict[str, Any]:
    """Plain values that `from_json` understands."""
    last = learned.last
    death = None if last is None else {name: getattr(last, name) for name in MemoryDeath.__slots__}
    return {"share": learned.share, "deaths": learned.deaths, "last": death, "worked_s": learned.worked_s}


def from_json(content: Mapping[str, Any]) -> LearnedCeiling:
    """What is in a file. Raises ValueError if it is none of ours."""
    try:
        last = MemoryDeath(**content["last"]) if content["last"] is not None else None
        learned = LearnedCeiling(
            float(content["share"]), int(content["deaths"]), last, float(content["worked_s"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not learned limits: {error!r}") from error
    if not LEAST_SHARE <= learned.share <= 1.0 or learned.worked_s < 0 or (last and not last.ceiling > 0):
        raise ValueError("learned limits out of their range")
    return learned
