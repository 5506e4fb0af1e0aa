"""Pure. How long a working child may be silent in each phase of its work, learned from silences that ended.

A prefill step on a slow machine shows nothing for half a minute, and a search in the prompt cache nothing for
as long as was predicted, while decoding shows something many times a second. Each phase therefore has a limit
of its own, between the configured stall time and a multiple of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

#: A silence may last this many times the longest recent one of its phase.
_MARGIN = 3.0
#: The longest silence is scaled by this with every further one, so it is forgotten after hundreds of steps.
_DECAY = 0.99
#: No learned limit exceeds this many stall times.
MAX_LIMIT = 4.0
#: A predicted silence is excused until it has lasted this many stall times in all.
MAX_EXCUSED = 20.0


class WorkPhase(StrEnum):
    """What the child is doing for a request, as seen from outside."""

    QUEUED = "queued"  # sent, but no byte of a response yet: it waits, tokenizes or searches
    PREFILL = "prefill"  # the response has begun
    DECODE = "decode"  # content has arrived; the text of a tool call only comes once it is complete


#: Phases in the order of how long they may be silent, longest first.
_SLOWEST = (WorkPhase.PREFILL, WorkPhase.QUEUED, WorkPhase.DECODE)


def slowest(phases: Iterable[WorkPhase]) -> WorkPhase | None:
    """The phase to which a silence is attributed; None if there is no work."""
    present = set(phases)
    return next((phase for phase in _SLOWEST if phase in present), None)


@dataclass(frozen=True, slots=True)
class SilenceLimits:
    """Limits in seconds. `longest`: the longest recent silence of each phase that ended by itself."""

    stall_s: float
    longest: Mapping[WorkPhase, float] = field(default_factory=dict)

    def ended(self, phase: WorkPhase | None, silence_s: float) -> SilenceLimits:
        """Learn that the child moved again after `silence_s` seconds."""
        if phase is None:
            return self
        longest = max(silence_s, self.longest.get(phase, 0.0) * _DECAY)
        return replace(self, longest={**self.longest, phase: longest})

    def limit(self, phase: WorkPhase | None) -> float:
        """Seconds of silence after which a canary is sent."""
        learned = _MARGIN * self.longest.get(phase, 0.0) if phase is not None else 0.0
        return min(max(self.stall_s, learned), MAX_LIMIT * self.stall_s)

    def excused(self, expected_until: float, silent_since: float) -> float:
        """The time until which a predicted silence that began at `silent_since` is no stall."""
        return min(expected_until, silent_since + MAX_EXCUSED * self.stall_s)
