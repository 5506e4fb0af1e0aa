"""Pure. Decides when a silent child counts as stalled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from supervisor.lifecycle.silence_limits import SilenceLimits, WorkPhase

#: A thread that moves for this many stall times, with no byte sent and no memory changed, is spinning. A
#: search in the prompt cache looks the same: 18 s for each of many requests behind a session of 128k tokens.
SPINNING = 10

#: A gap of this length between two ticks, or between wall and monotonic clock, means that the machine slept.
SLEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of the child at one moment; a change from one moment to the next is activity."""

    in_flight: int
    reads: int  # number of reads that brought bytes, over all requests
    beat: int = 0  # number of times that the generation thread, or the process, was seen to move
    memory: tuple[int, ...] = ()  # sizes that change with every step of MLX
    heard: bool = True  # /health was answered
    phase: WorkPhase | None = None  # the slowest phase of the requests in flight
    silence_expected_until: float = 0.0  # monotonic seconds, predicted by the gateway

    def work_since(self, before: Signs) -> bool:
        """Whether the child has made progress since `before`."""
        return self.reads != before.reads or self.memory != before.memory


class Stall(Enum):
    NONE = auto()
    QUIET = auto()  # nothing moves
    SPINNING = auto()  # the thread moves, but has made no progress for very long


class StallWatch:
    """Says when a silence calls for a canary. Times: `now` monotonic and `wall` clock, in seconds.

    A canary takes time too, so it is due that much before `stall_s` has passed, but never before half of
    it. The silence starts anew when the machine has slept and whenever the child has no work. The current
    phase may have a longer limit, and a predicted silence is counted from its predicted end
    (`silence_limits.py`).
    """

    def __init__(
        self, stall_s: float, canary_timeout_s: float, signs: Signs, *, now: float, wall: float
    ) -> None:
        self._limits = SilenceLimits(max(stall_s - canary_timeout_s, stall_s / 2))
        self._seen = signs
        self._now, self._wall = now, wall
        self._moved = self._worked = now

    def reset(self, now: float) -> None:
        """Start the silence anew: the canary was answered."""
        self._moved = self._worked = now

    def tick(self, signs: Signs, *, now: float, wall: float) -> Stall:
        """Take in what is seen now, and say whether the child has stalled."""
        before, self._seen = self._seen, signs
        if self._slept(now, wall):
            self.reset(now)
        self._note_movement(before, signs, now)
        excused = self._limits.excused(signs.silence_expected_until, self._worked)
        if now - max(self._moved, excused) >= self._limits.limit(signs.phase):
            return Stall.QUIET
        spinning = now - max(self._worked, excused) >= SPINNING * self._limits.stall_s
        return Stall.SPINNING if spinning else Stall.NONE

    def _slept(self, now: float, wall: float) -> bool:
        elapsed, elapsed_wall = now - self._now, wall - self._wall
        self._now, self._wall = now, wall
        return elapsed > SLEPT_S or abs(elapsed_wall - elapsed) > SLEPT_S

    def _note_movement(self, before: Signs, signs: Signs, now: float) -> None:
        if not signs.in_flight and signs.heard:
            self.reset(now)
        elif signs.work_since(before):
            self._limits = self._limits.ended(before.phase, now - self._moved)
            self.reset(now)
        elif signs.beat != before.beat:
            self._limits = self._limits.ended(before.phase, now - self._moved)
            self._moved = now


def moved(before: Signs, after: Signs, stall: Stall) -> bool:
    """Whether the child moved while a canary went unanswered; spinning does not count."""
    return after.work_since(before) or (stall is not Stall.SPINNING and after.beat != before.beat)
