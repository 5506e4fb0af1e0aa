"""Pure. Decides when a silent child counts as stalled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from supervisor.lifecycle.silence_limits import Silences, WorkPhase

#: A thread that moves for this many stall times, with no byte sent and no memory changed, is spinning. A
#: search in the prompt cache looks the same: 18 s for each of many requests behind a session of 128k tokens.
SPINNING = 10

#: A gap between two ticks, or between wall and monotonic clock, from which on the machine must have slept.
SLEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of the child at one moment; a change of it is movement."""

    in_flight: int
    reads: int  # times that bytes came for some request
    beat: int = 0  # times that the generation thread, or the process, was seen at work
    memory: tuple[int, ...] = ()  # changes with every step of MLX
    heard: bool = True  # /health was answered
    phase: WorkPhase | None = None  # of what it is at, the one that is silent for longest
    silent_until: float = 0.0  # monotonic: foreseen by the gateway

    def work_since(self, before: Signs) -> bool:
        """Something came of it since."""
        return self.reads != before.reads or self.memory != before.memory


class Stall(Enum):
    NONE = auto()
    QUIET = auto()  # nothing moves
    SPINNING = auto()  # the thread moves, but nothing has come of it for very long


class StallWatch:
    """Says when a silence is worth a canary. Times: `now` monotonic and `wall` clock, in seconds.

    A canary takes time of its own, so it is due that much before `stall_s` is over, if that leaves at
    least half of it. A machine that slept starts the silence anew, and so does a child without work. What
    the child is at may have a longer limit, and a silence that was foreseen begins when it should be over
    (`silence.py`).
    """

    def __init__(
        self, stall_s: float, canary_timeout_s: float, signs: Signs, *, now: float, wall: float
    ) -> None:
        self._silences = Silences(max(stall_s - canary_timeout_s, stall_s / 2))
        self._seen = signs
        self._now, self._wall = now, wall
        self._moved = self._worked = now

    def reset(self, now: float) -> None:
        """The canary was answered."""
        self._moved = self._worked = now

    def tick(self, signs: Signs, *, now: float, wall: float) -> Stall:
        before, self._seen = self._seen, signs
        if self._slept(now, wall):
            self.reset(now)
        self._note_movement(before, signs, now)
        excused = self._silences.excused(signs.silent_until, self._worked)
        if now - max(self._moved, excused) >= self._silences.limit(signs.phase):
            return Stall.QUIET
        spinning = now - max(self._worked, excused) >= SPINNING * self._silences.stall_s
        return Stall.SPINNING if spinning else Stall.NONE

    def _slept(self, now: float, wall: float) -> bool:
        elapsed, elapsed_wall = now - self._now, wall - self._wall
        self._now, self._wall = now, wall
        return elapsed > SLEPT_S or abs(elapsed_wall - elapsed) > SLEPT_S

    def _note_movement(self, before: Signs, signs: Signs, now: float) -> None:
        if not signs.in_flight and signs.heard:
            self.reset(now)
        elif signs.work_since(before):
            self._silences = self._silences.ended(before.phase, now - self._moved)
            self.reset(now)
        elif signs.beat != before.beat:
            self._silences = self._silences.ended(before.phase, now - self._moved)
            self._moved = now


def moved(before: Signs, after: Signs, stall: Stall) -> bool:
    """True if the child moved while a canary went unanswered. Spinning is no movement."""
    return after.work_since(before) or (stall is not Stall.SPINNING and after.beat != before.beat)
