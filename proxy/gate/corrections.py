"""Pure. What is learned of the cost model's error from predicted and observed peaks. Bounded and decaying."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

#: The smallest factor on the predicted bytes above the weights.
LEAST_FACTOR = 0.75
#: The largest factor on the predicted bytes above the weights.
MOST_FACTOR = 1.5
#: A sample that differs from the current belief by more than this factor is an outlier and is set aside.
_OUTLIER = 1.5
#: Outliers are believed when this many in a row agree.
_AGREEING = 4
#: Smaller ratios of observed to predicted bytes count as this one, so that none is zero.
_LEAST_RATIO = 1e-3
#: One sample raises the belief by at most this much.
_UP = 0.02
#: One sample lowers the belief by at most this much. The cost model is an upper bound, so most samples are
#: below it: with these two steps the belief settles where one sample in forty is above it.
_DOWN = 0.0005
#: The factor in force moves in steps of this size, so that small changes of the belief change no decision.
_STEP = 0.05
#: Seconds without a sample after which half of what was learned is forgotten.
HALF_LIFE_S = 7 * 86_400.0
#: Times in a file that are farther than this from zero are not ours.
_FARTHEST = 1e11


@dataclass(frozen=True, slots=True)
class Correction:
    """A factor on the predicted bytes above the weights, learned from predicted and observed peaks.

    Attributes:
        belief: the factor before it is rounded to steps.
        outliers: the last samples in a row that did not agree with it.
        at: when the last sample came, in seconds.
    """

    belief: Annotated[float, Field(ge=LEAST_FACTOR, le=MOST_FACTOR)] = 1.0
    outliers: Annotated[tuple[Annotated[float, Field(ge=0, le=1e12)], ...], Field(max_length=_AGREEING)] = ()
    at: Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST)] = 0.0

    def factor(self, now: float) -> float:
        """The factor in force."""
        faded = 1.0 + (self.belief - 1.0) * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_S)
        # By whole steps from 1, and a hundredth of one for rounding and for the last hour's fading.
        steps = int(abs(faded - 1.0) / _STEP + 0.01)
        return 1.0 + steps * (_STEP if faded > 1.0 else -_STEP)

    def learned(self, ratio: float, now: float) -> Correction:
        """The correction after one more sample: observed bytes over uncorrected predicted bytes."""
        ratio = max(ratio, _LEAST_RATIO)
        if _alike(ratio, self.belief):
            return Correction(_moved(self.belief, ratio), (), now)
        outliers = (*self.outliers, ratio)[-_AGREEING:] if self._agrees(ratio) else (ratio,)
        if len(outliers) < _AGREEING:
            return replace(self, outliers=outliers)
        if ratio < self.belief:  # lowered slowly, as by any lower sample: a bound may be far above the usual
            return Correction(_moved(self.belief, ratio), outliers, now)
        return Correction(_bounded(min(outliers)), (), now)

    def _agrees(self, ratio: float) -> bool:
        """Whether it agrees with the outliers so far: about as far above, or also below."""
        if ratio < self.belief:
            return all(other < self.belief for other in self.outliers)
        return all(_alike(ratio, other) for other in self.outliers)


def _alike(ratio: float, other: float) -> bool:
    return 1 / _OUTLIER <= ratio / other <= _OUTLIER


def _moved(belief: float, ratio: float) -> float:
    return _bounded(min(ratio, belief + _UP) if ratio > belief else max(ratio, belief - _DOWN))


def _bounded(factor: float) -> float:
    return max(LEAST_FACTOR, min(MOST_FACTOR, factor))


@dataclass(frozen=True, slots=True)
class PeakSample:
    """One request's predicted and observed peak, in bytes above the weights.

    Attributes:
        together: other requests ran at the same time.
        exact: `observed` is the true peak; else a short peak between two samples of telemetry may be missing.
    """

    predicted: int
    observed: int
    together: bool
    exact: bool = True

    @property
    def error(self) -> float:
        """The prediction's error as a share of what was observed: 0.1 is a tenth too much."""
        return self.predicted / self.observed - 1.0


@dataclass(frozen=True, slots=True)
class Corrections:
    """Two corrections of one cost model, which is nearly exact for one request and a bound for several."""

    alone: Correction = Correction()
    together: Correction = Correction()

    def learned(self, sample: PeakSample, now: float) -> Corrections:
        """The corrections after one more sample; one that is not exact can only raise them."""
        ratio, one = sample.observed / sample.predicted, self.together if sample.together else self.alone
        if not sample.exact and ratio < one.belief:
            return self
        one = one.learned(ratio, now)
        return replace(self, together=one) if sample.together else replace(self, alone=one)

    def factors(self, now: float) -> tuple[float, float]:
        """The factors in force, for one request and for several."""
        return self.alone.factor(now), self.together.factor(now)


@dataclass(slots=True)
class _Watched:
    """A running request. `observed_at` is the number of the observation that was the highest."""

    retained: int
    before: int
    predicted: int = 0
    observed: int = 0
    observed_at: int = 0
    together: bool = False
    exact: bool = False


class Peaks:
    """Predicted and observed peaks while each request runs, in bytes above the weights.

    What is observed is everything that the child holds, so a prediction is for all running requests, too: the
    highest prediction made while a request ran is compared with the highest observation. Requests that ran
    together at that moment yield one sample.
    """

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._observations = 0
        self._sampled_at = 0  # the observation that the last sample came from
        self._active = 0
        self._peak: int | None = None

    def granted(self, id: str, predicted: int, retained: int) -> None:
        """`id` runs too, and the predicted peak of all running requests is `predicted` bytes.

        `retained`: the part of it that finished sequences hold, which is measured and not predicted.
        """
        self._watched[id] = _Watched(retained, self._active)
        together = len(self._watched) > 1
        for each in self._watched.values():
            each.predicted = max(each.predicted, predicted)
            each.together |= together

    def observe(self, active: int, peak: int | None = None) -> dict[str, int]:
        """The child has `active` bytes in use; returns the highest rise since each running request began.

        `peak`: the most that it ever had. Where that rose since the last observation, it is exactly what
        happened in between.
        """
        risen = peak is not None and self._peak is not None and peak > self._peak
        self._active, self._peak = active, peak
        self._observations += 1
        most = peak if risen and peak is not None else active
        for each in self._watched.values():
            if most > each.observed:
                each.observed, each.observed_at, each.exact = most, self._observations, risen
        return {id: max(0, each.observed - each.before) for id, each in self._watched.items()}

    def ended(self, id: str) -> PeakSample | None:
        """Stop watching a request; None if it yields no sample."""
        one = self._watched.pop(id, None)
        if one is None or one.observed_at <= self._sampled_at or 2 * one.retained > one.predicted:
            return None
        self._sampled_at = one.observed_at
        return PeakSample(one.predicted, one.observed, one.together, one.exact)
