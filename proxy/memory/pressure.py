"""Pure. Memory pressure: readings in, a mark out, with hysteresis; and which requests the hard mark ends.

Below the soft mark nothing happens. From the soft mark on no request is admitted, until usage has fallen well
below it. At the hard mark, which is the ceiling itself, requests end before the child does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from supervisor.memory_model.sequence import SequenceDemand

#: The soft mark, as a share of the memory between the weights and the ceiling.
SOFT = 0.92
#: Below this share of the same memory, the soft mark is left again.
RELEASE = 0.85
#: Looks in a row above the ceiling that make the hard mark: a prefill step briefly needs memory that is gone
#: at the next look.
LOOKS = 2
#: Telemetry, which comes ten times a second, is stale when it is older than this: the child may be full.
STALE_S = 1.5
#: Telemetry older than this counts as absent: it will not come back, and a dead child would be known by then.
LOST_S = 90.0
#: The cost of ending an answer that was partly sent, in tokens to read: its client starts its turn again.
BROKEN_ANSWER = 4096
#: The cost of generating a token, in tokens to read: it takes about this many times longer.
GENERATING = 16


class Mark(IntEnum):
    """The level of memory pressure."""

    NONE = 0
    SOFT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """One look at the child. Bytes and seconds.

    Attributes:
        active: what MLX reports as in use; None without telemetry.
        age_s: age of `active`.
        outside: the process as the system sees it, which includes Python and what MLX has freed but keeps.
    """

    active: int | None
    age_s: float
    outside: int | None

    @property
    def stale(self) -> bool:
        """Whether telemetry has stopped for now."""
        return self.active is not None and STALE_S < self.age_s <= LOST_S

    @property
    def fresh(self) -> int | None:
        """Bytes in use now; None if that is not known."""
        return self.active if self.age_s <= STALE_S else None


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in bytes. `weights`: nothing below this can be freed."""

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
    """The current mark, and the number of looks in a row that were above the ceiling."""

    mark: Mark = Mark.NONE
    over: int = 0

    def after(self, reading: MemoryReading, marks: Marks) -> PressureState:
        """The state after one more look.

        Without telemetry there is only the view from outside, which includes freed memory: it can hold
        admissions back, but it ends no request.
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
        soft = size >= marks.soft or (self.mark is not Mark.NONE and size > marks.release)
        return PressureState(Mark.SOFT if soft else Mark.NONE, over)


@dataclass(frozen=True, slots=True)
class RunningLoad:
    """A running request, and what ending it would lose.

    Attributes:
        sent: its client has seen content, so it cannot be replayed.
        read: tokens of its prompt that have been read, which a replay reads again.
        generated: tokens so far.
    """

    id: str
    demand: SequenceDemand
    sent: bool
    read: int
    generated: int

    @property
    def rows(self) -> int:
        """Upper bound on the positions that it holds in the KV cache."""
        return self.demand.prompt + self.demand.completion

    @property
    def loss(self) -> int:
        """The cost of ending it, in tokens to read."""
        lost = self.read + GENERATING * self.generated
        return lost + BROKEN_ANSWER if self.sent else lost


#: Bytes of KV of a padded batch, in which each request costs as much as the longest.
_Kv = Callable[[Sequence[SequenceDemand]], int]


def least_costly(loads: Sequence[RunningLoad], over: int, kv: _Kv) -> tuple[str, ...]:
    """Ids of the requests whose end frees at least `over` bytes at the least loss; all if that is too little.

    In a padded batch what counts is the longest request that stays. For each choice of that one, the cheapest
    others are ended until the rest fits.
    """
    target = kv([load.demand for load in loads]) - over
    choices = [_ended(loads, longest, target, kv) for longest in sorted({load.rows for load in loads})]
    enough = [choice for choice in choices if choice is not None]
    best = min(enough, key=lambda choice: sum(load.loss for load in choice), default=tuple(loads))
    return tuple(load.id for load in best)


def _ended(
    loads: Sequence[RunningLoad], longest: int, target: int, kv: _Kv
) -> tuple[RunningLoad, ...] | None:
    """The requests to end if none longer than `longest` stays; None if that would have to be all of them."""
    ended = [load for load in loads if load.rows > longest]
    staying = sorted((load for load in loads if load.rows <= longest), key=lambda load: load.loss)
    while staying:
        if kv([load.demand for load in staying]) <= target:
            return tuple(ended)
        ended.append(staying.pop(0))
    return None
