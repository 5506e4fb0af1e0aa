"""How long a child that works may be silent, by what it is at: learned from silences that ended. Pure.

A prefill step on a slow machine shows nothing for half a minute, a search in the prompt cache for as long as
was foreseen; what a decode shows comes many times a second. So each phase has a limit of its own. None is
below the configured stall time, and none above a multiple of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

#: A silence may be so many times as long as the longest of late.
_ROOM = 3.0
#: The longest counts less with every further silence of its phase: hundreds of steps later it is forgotten.
_FADING = 0.99
#: No limit is above so many stall times.
MOST = 4.0
#: What was foreseen excuses a silence, until it has lasted so many stall times in all.
MOST_EXCUSED = 20.0


class WorkPhase(StrEnum):
    """What the child is at for a request, as seen from outside."""

    QUEUED = "queued"  # asked, and not answered by a byte: it waits, tokenizes or searches
    PREFILL = "prefill"  # its answer began
    DECODE = "decode"  # content came; the text of a tool call comes only when it is whole


#: Of several at once, the one that is silent for longest.
_SLOWEST = (WorkPhase.PREFILL, WorkPhase.QUEUED, WorkPhase.DECODE)


def slowest(phases: Iterable[WorkPhase]) -> WorkPhase | None:
    """The phase that a silence is put down to; None where there is no work."""
    present = set(phases)
    return next((phase for phase in _SLOWEST if phase in present), None)


@dataclass(frozen=True, slots=True)
class Silences:
    """Seconds. `longest`: silences of late that ended by themselves."""

    stall_s: float
    longest: Mapping[WorkPhase, float] = field(default_factory=dict)

    def ended(self, phase: WorkPhase | None, silence_s: float) -> Silences:
        """The child moved again after so long."""
        if phase is None:
            return self
        longest = max(silence_s, self.longest.get(phase, 0.0) * _FADING)
        return replace(self, longest={**self.longest, phase: longest})

    def limit(self, phase: WorkPhase | None) -> float:
        """From here on a silence is worth a canary."""
        learned = _ROOM * self.longest.get(phase, 0.0) if phase is not None else 0.0
        return min(max(self.stall_s, learned), MOST * self.stall_s)

    def excused(self, foreseen_until: float, silent_since: float) -> float:
        """Until when a silence that was foreseen is none, without a sign of work since `silent_since`."""
        return min(foreseen_until, silent_since + MOST_EXCUSED * self.stall_s)
