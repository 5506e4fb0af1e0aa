"""Pure. What deaths from lack of memory teach about the ceiling: lowered at once, raised again over time.

The learned value is a share of the ceiling that machine and settings give, not a number of bytes: free memory
differs from start to start, and a death while other programs used most of it must not become a small limit
for ever. Every change is one bounded step, so that no single outlier moves the share far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from supervisor.memory_model.ceiling import Bound, gb

#: A death lowers the share to this part of the memory at which the child died.
_UNDER = 0.95
#: Factors by which one death lowers the share at least and at most.
_LEAST_STEP, _MOST_STEP = 0.97, 0.90

#: The share never goes below this: then something other than the ceiling is wrong.
LEAST_SHARE = 0.5

#: One raise gives back half of what is missing, but at most this.
_RAISE = 0.02
#: When less than this is missing, a raise restores the whole ceiling.
_WHOLE = 0.005

#: Seconds of work without such a death before the first raise; each further death doubles them.
STABLE_S = 1800.0
#: Seconds of work before a raise never exceed this.
LONGEST_STABLE_S = 24 * 3600.0

#: Bytes and wall-clock seconds beyond these are no values of ours.
_MOST_BYTES, _LATEST = 2**60, 1e11


@dataclass(frozen=True, slots=True)
class MemoryDeath:
    """One death from lack of memory, as telemetry reported it."""

    cause: Annotated[str, Field(max_length=64)]
    held: Annotated[int, Field(ge=0, le=_MOST_BYTES)]  # the most that MLX had active in the last seconds
    ceiling: Annotated[int, Field(ge=1, le=_MOST_BYTES)]  # the one in force, in bytes
    at: Annotated[float, Field(ge=0, le=_LATEST)]  # wall-clock seconds


@dataclass(frozen=True, slots=True)
class LearnedCeiling:
    """What has been learned; the ranges are those that a file's values must have.

    `share` is the part that is used of the ceiling that machine and settings give.
    """

    share: Annotated[float, Field(ge=LEAST_SHARE, le=1.0)] = 1.0
    deaths: Annotated[int, Field(ge=0, le=10**6)] = 0  # number of deaths that it follows from
    last: MemoryDeath | None = None  # the newest of them; None while nothing has been learned
    worked_s: Annotated[float, Field(ge=0, le=_LATEST)] = 0.0  # seconds of work since the share last changed

    @property
    def stable_s(self) -> float:
        """Seconds of work before the next raise."""
        return min(STABLE_S * 2.0 ** min(max(0, self.deaths - 1), 32), LONGEST_STABLE_S)

    @property
    def reason(self) -> str:
        """A clause that says what was learned, and from what."""
        if self.last is None:
            return "nothing has been learned"
        times = "a death" if self.deaths == 1 else f"{self.deaths} deaths"
        return (
            f"{self.share:.0%} of what would otherwise be allowed, learned from {times} from lack of memory "
            f"(the last: {self.last.cause} at {gb(self.last.held)} of {gb(self.last.ceiling)})"
        )


def lowered(learned: LearnedCeiling, death: MemoryDeath) -> LearnedCeiling:
    """The state after one more death. If more was in use than allowed, the ceiling was hardly the cause."""
    seen = _UNDER * death.held / max(1, death.ceiling)
    step = max(_MOST_STEP, min(_LEAST_STEP, seen))
    return LearnedCeiling(max(LEAST_SHARE, learned.share * step), learned.deaths + 1, death)


def worked(learned: LearnedCeiling, seconds: float) -> LearnedCeiling:
    """The state after `seconds` more of work without such a death; raises the share at most once."""
    if learned.last is None:
        return learned
    total = learned.worked_s + max(0.0, seconds)
    if total < learned.stable_s:
        return replace(learned, worked_s=total)
    missing = 1.0 - learned.share
    if missing < _WHOLE:
        return LearnedCeiling()
    return replace(learned, share=learned.share + min(_RAISE, missing / 2), worked_s=0.0)


def bound(learned: LearnedCeiling, allowed: int) -> Bound | None:
    """The bound for a child that machine and settings allow `allowed` bytes; None if nothing was learned."""
    if learned.last is None:
        return None
    return Bound(round(learned.share * allowed), learned.reason)
