"""How full the child is: readings in, a mark out, with hysteresis; and whom to end at the hard mark. Pure.

Below the soft mark nothing happens. From the soft mark on nobody new is let in, until it has fallen well
below. At the hard mark, the ceiling itself, requests end before the child does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

#: Of the room beside the weights: from here on, and no more from here down.
SOFT, RELEASE = 0.92, 0.85
#: A prefill step needs a moment's memory, which is gone at the next look: two in a row are no moment.
LOOKS = 2
#: Telemetry comes ten times a second. Older than this it says nothing of now, so the child counts as full;
STALE_S = 1.5
#: older than this it will not come back (a dead child would be known by then), and counts as absent.
LOST_S = 90.0

#: What breaking an answer that was partly sent costs its client, in tokens that must be read again: it
#: starts its turn anew, and tokens take about so many times longer to generate than to read.
BROKEN_ANSWER = 4096
GENERATING = 16


class Mark(IntEnum):
    NONE = 0
    SOFT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """One look at the child. Bytes and seconds.

    Attributes:
        active: what MLX says of itself; None without telemetry.
        age_s: of `active`.
        outside: as the system sees the process; also what MLX has freed and kept, and Python.
    """

    active: int | None
    age_s: float
    outside: int | None

    @property
    def stale(self) -> bool:
        """Telemetry has stopped, for now."""
        return self.active is not None and STALE_S < self.age_s <= LOST_S

    @property
    def fresh(self) -> int | None:
        """Active bytes of this moment."""
        return self.active if self.age_s <= STALE_S else None


@dataclass(frozen=True, slots=True)
class Marks:
    """Bytes. `weights`: below this nothing can be freed."""

    weights: int
    ceiling: int

    @property
    def soft(self) -> int:
        return self._at(SOFT)

    @property
    def release(self) -> int:
        return self._at(RELEASE)

    def _at(self, share: float) -> int:
        return self.weights + round(share * max(0, self.ceiling - self.weights))


@dataclass(frozen=True, slots=True)
class PressureState:
    """The mark as it stands, and how many looks in a row were over the ceiling."""

    mark: Mark = Mark.NONE
    over: int = 0

    def after(self, reading: MemoryReading, marks: Marks) -> PressureState:
        """What one more look makes of it.

        Without telemetry only the view from outside is there, which counts freed memory too: it can hold
        newcomers back, and nobody is ended because of it.
        """
        if reading.stale:
            return PressureState(max(self.mark, Mark.SOFT))
        size = reading.fresh
        if size is None:
            full = reading.outside is not None and reading.outside > marks.ceiling
            return PressureState(Mark.SOFT if full else Mark.NONE)
        over = self.over + 1 if size > marks.ceiling else 0
        if over >= LOOKS:
            return PressureState(Mark.HARD, over)
        held = size >= marks.soft or (self.mark is not Mark.NONE and size > marks.release)
        return PressureState(Mark.SOFT if held else Mark.NONE, over)


N = TypeVar("N")


@dataclass(frozen=True, slots=True)
class RunningLoad(Generic[N]):
    """One that runs, and what ending it would lose.

    Attributes:
        need: as the law of costs takes it.
        rows: positions that it holds at most.
        sent: its client has seen content, so it cannot be run again.
        read: tokens of its prompt that were read, which another run reads again.
        generated: tokens so far.
    """

    id: str
    need: N
    rows: int
    sent: bool
    read: int
    generated: int

    @property
    def loss(self) -> int:
        """In tokens to read."""
        lost = self.read + GENERATING * self.generated
        return lost + BROKEN_ANSWER if self.sent else lost


def least_costly(
    loads: Sequence[RunningLoad[N]], over: int, kv: Callable[[Sequence[N]], int]
) -> tuple[str, ...]:
    """Whom to end so that at least `over` bytes come free, at the least loss; all if even that is too little.

    `kv`: bytes of a set by the padded law, in which each costs as much as the longest. So what counts is who
    the longest is that stays: for each choice of that, the cheapest others go until it fits.
    """
    target = kv([load.need for load in loads]) - over
    choices = [_leaving(loads, longest, target, kv) for longest in sorted({load.rows for load in loads})]
    found = [choice for choice in choices if choice is not None]
    best = min(found, key=lambda choice: sum(load.loss for load in choice), default=tuple(loads))
    return tuple(load.id for load in best)


def _leaving(
    loads: Sequence[RunningLoad[N]], longest: int, target: int, kv: Callable[[Sequence[N]], int]
) -> tuple[RunningLoad[N], ...] | None:
    """Who leaves if nobody longer than `longest` stays; None if that is not enough while somebody stays."""
    leaving = [load for load in loads if load.rows > longest]
    staying = sorted((load for load in loads if load.rows <= longest), key=lambda load: load.loss)
    while staying:
        if kv([load.need for load in staying]) <= target:
            return tuple(leaving)
        leaving.append(staying.pop(0))
    return None
