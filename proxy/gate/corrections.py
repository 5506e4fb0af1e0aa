"""What experience teaches: how long answers get, and how far the law of memory is off. Bounded, decaying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.gate.answer_lengths import AnswerLengths
from proxy.gate.budget import Costs, Need

#: The law's bytes beside the weights are multiplied by a factor between these.
LEAST_FACTOR, MOST_FACTOR = 0.75, 1.5
#: A sample this many times above or below what is now believed is strange: it is set aside, and believed
#: only when so many in a row agree.
_STRANGE = 1.5
_AGREE = 4
_LEAST_RATIO = 1e-3
#: One sample moves the factor so far up or down at most. The law is meant as a bound, so most samples are
#: below it: a factor that these move down is where one in forty is above.
_UP, _DOWN = 0.02, 0.0005
#: The factor in force moves in steps of this size, so that small news changes nothing.
_STEP = 0.05
#: Within this many seconds without a sample, half of what was learned is forgotten.
HALF_LIFE_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Correction:
    """By what the law's bytes beside the weights are to be multiplied, from predicted and seen peaks.

    Attributes:
        belief: the factor, before it is rounded to steps.
        strange: samples in a row that do not fit to it.
        at: when the last sample came, in seconds.
    """

    belief: float = 1.0
    strange: tuple[float, ...] = ()
    at: float = 0.0

    def factor(self, now: float) -> float:
        """What holds now."""
        faded = 1.0 + (self.belief - 1.0) * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_S)
        # By whole steps from 1, and a hundredth of one for rounding and for the last hour's fading.
        steps = int(abs(faded - 1.0) / _STEP + 0.01)
        return 1.0 + steps * (_STEP if faded > 1.0 else -_STEP)

    def learned(self, ratio: float, now: float) -> Correction:
        """After one more sample: what was seen, as a multiple of what was predicted without a correction."""
        ratio = max(ratio, _LEAST_RATIO)
        if _alike(ratio, self.belief):
            return Correction(_moved(self.belief, ratio), (), now)
        strange = (*self.strange, ratio)[-_AGREE:] if self._agrees(ratio) else (ratio,)
        if len(strange) < _AGREE:
            return replace(self, strange=strange)
        if ratio < self.belief:  # as any that is too high: a bound may be far above what is usual
            return Correction(_moved(self.belief, ratio), strange, now)
        return Correction(_bounded(min(strange)), (), now)

    def _agrees(self, ratio: float) -> bool:
        """Whether it says the same as those that were set aside: as far above, or below like them."""
        if ratio < self.belief:
            return all(other < self.belief for other in self.strange)
        return all(_alike(ratio, other) for other in self.strange)


def _alike(ratio: float, other: float) -> bool:
    return 1 / _STRANGE <= ratio / other <= _STRANGE


def _moved(belief: float, ratio: float) -> float:
    return _bounded(min(ratio, belief + _UP) if ratio > belief else max(ratio, belief - _DOWN))


def _bounded(factor: float) -> float:
    return max(LEAST_FACTOR, min(MOST_FACTOR, factor))


@dataclass(frozen=True, slots=True)
class PeakSample:
    """How one request's prediction turned out. Bytes beside the weights.

    Attributes:
        together: others ran beside it.
        exact: what was seen is the most there was; else a short peak between two looks may be missing.
    """

    predicted: int
    seen: int
    together: bool
    exact: bool = True

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was seen: 0.1 is a tenth too much."""
        return self.predicted / self.seen - 1.0


@dataclass(frozen=True, slots=True)
class Corrections:
    """One law, two corrections: it is nearly exact for one that runs alone, and a bound for several."""

    alone: Correction = Correction()
    together: Correction = Correction()

    def learned(self, sample: PeakSample, now: float) -> Corrections:
        """After one more sample; one that is not exact cannot say that the law was too high."""
        ratio, one = sample.seen / sample.predicted, self.together if sample.together else self.alone
        if not sample.exact and ratio < one.belief:
            return self
        one = one.learned(ratio, now)
        return replace(self, together=one) if sample.together else replace(self, alone=one)

    def factors(self, now: float) -> tuple[float, float]:
        """For one, for several."""
        return self.alone.factor(now), self.together.factor(now)


@dataclass(slots=True)
class _Watched:
    retained: int
    before: int
    predicted: int = 0
    seen: int = 0
    seen_at: int = 0  # which look
    together: bool = False
    exact: bool = False


class Peaks:
    """What was predicted, and what was seen, while each of the running ran. Bytes beside the weights.

    What is seen is everything that the child holds, so a prediction is for all who run, too: the highest
    that was made while a request ran stands against the highest that was seen. Those who ran together at
    that moment are one sample and no more.
    """

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._looks = 0
        self._told_at = 0  # the look of the last sample
        self._held = 0
        self._highest: int | None = None

    def granted(self, id: str, predicted: int, retained: int) -> None:
        """`id` runs too, and the fullest moment of all is foretold to be `predicted` bytes.

        `retained`: those of them that finished sequences hold, of which nothing is foretold.
        """
        self._watched[id] = _Watched(retained, self._held)
        together = len(self._watched) > 1
        for each in self._watched.values():
            each.predicted = max(each.predicted, predicted)
            each.together |= together

    def saw(self, held: int, highest: int | None = None) -> dict[str, int]:
        """The child holds so many bytes; how much more that is, at most, than before each of the running.

        `highest`: the most that it ever held. Where that has risen since the last look, it tells exactly what
        happened in between.
        """
        risen = highest is not None and self._highest is not None and highest > self._highest
        self._held, self._highest = held, highest
        self._looks += 1
        most = highest if risen and highest is not None else held
        for each in self._watched.values():
            if most > each.seen:
                each.seen, each.seen_at, each.exact = most, self._looks, risen
        return {id: max(0, each.seen - each.before) for id, each in self._watched.items()}

    def ended(self, id: str) -> PeakSample | None:
        """What became of one that runs no more; None if it says nothing."""
        watched = self._watched.pop(id, None)
        if watched is None or watched.seen_at <= self._told_at or 2 * watched.retained > watched.predicted:
            return None
        self._told_at = watched.seen_at
        return PeakSample(watched.predicted, watched.seen, watched.together, watched.exact)


class LearnedState:
    """One per gate.

    Attributes:
        lengths: how long the answers of each client are.
        corrections: how far the law was found to be off; may be set to what an earlier proxy found.
    """

    def __init__(self) -> None:
        self.lengths = AnswerLengths()
        self.corrections = Corrections()
        self._peaks = Peaks()

    def granted(self, id: str, costs: Costs, needs: Sequence[Need], retained: int) -> None:
        """`id` runs too, so that `needs` run together: what the law says without corrections is noted."""
        costs = costs.corrected(1.0, 1.0)
        self._peaks.granted(id, costs.peak(needs, retained) - costs.weights, retained)

    def saw(self, held: int, highest: int | None, weights: int) -> dict[str, int]:
        """The child holds so many bytes, never more than `highest`; rises as `Peaks.saw` has them."""
        return self._peaks.saw(held - weights, None if highest is None else highest - weights)

    def broken_off(self, id: str) -> None:
        """What was seen of it says nothing."""
        self._peaks.ended(id)

    def ended(self, id: str, now: float) -> PeakSample | None:
        """Learn from one that runs no more; None if it says nothing."""
        sample = self._peaks.ended(id)
        if sample is not None:
            self.corrections = self.corrections.learned(sample, now)
        return sample
