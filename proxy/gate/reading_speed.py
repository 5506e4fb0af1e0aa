"""Pure. Reading speed: how many seconds the child takes to read a prompt, learned from its progress lines.

Reading the tokens `a` to `b` of a prompt takes `(b - a) * linear + (b^2 - a^2) / 2 * quadratic` seconds: each
token passes through the same layers, and attends to all tokens before it. Both factors are fitted by least
squares to what the child reports, so a machine that slows down or a longer context is followed within a few
reads.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds for one token before anything is known: 1,000 tokens a second.
_PRIOR_LINEAR = 1e-3

#: Bounds on the seconds that one token may be believed to take on average, whatever was measured.
_FASTEST, _SLOWEST = 5e-5, 2e-2

#: Each new measurement reduces the weight of the earlier ones to this share.
_FADE = 0.95

#: The prior counts as much as one measured read of this many tokens.
_PRIOR_TOKENS = 64.0

#: Reads of fewer tokens say more about the fixed cost of a request than about reading.
LEAST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ReadingSpeed:
    """What is known of the child's reading speed.

    Attributes:
        ll, lq, qq: weighted sums of the products of the two regressors: tokens, and token pairs attended to.
        lt, qt: weighted sums of their products with the seconds that were measured.
    """

    ll: float = _PRIOR_TOKENS
    lq: float = 0.0
    qq: float = 0.0
    lt: float = _PRIOR_TOKENS * _PRIOR_LINEAR
    qt: float = 0.0

    def seconds(self, start: int, end: int) -> float:
        """Seconds to read the tokens from `start` to `end`; 0 if there are none."""
        if end <= start:
            return 0.0
        linear, quadratic = self._factors()
        tokens = end - start
        taken = tokens * linear + (end * end - start * start) / 2 * quadratic
        return min(max(taken, tokens * _FASTEST), tokens * _SLOWEST)

    def observed(self, start: int, end: int, seconds: float) -> ReadingSpeed:
        """The speed after the tokens from `start` to `end` took `seconds`; short reads change nothing."""
        tokens = end - start
        if tokens < LEAST_TOKENS or seconds <= 0:
            return self
        seconds = min(max(seconds, tokens * _FASTEST), tokens * _SLOWEST)
        pairs = (end * end - start * start) / 2
        # A read's error grows with its length, so each counts by its tokens and not by their square.
        weight = 1.0 / tokens
        return ReadingSpeed(
            ll=_FADE * self.ll + weight * tokens * tokens,
            lq=_FADE * self.lq + weight * tokens * pairs,
            qq=_FADE * self.qq + weight * pairs * pairs,
            lt=_FADE * self.lt + weight * tokens * seconds,
            qt=_FADE * self.qt + weight * pairs * seconds,
        )

    def _factors(self) -> tuple[float, float]:
        """The fitted factors; neither is negative."""
        determinant = self.ll * self.qq - self.lq * self.lq
        if determinant > 1e-9 * self.ll * self.qq:
            linear = (self.lt * self.qq - self.qt * self.lq) / determinant
            quadratic = (self.qt * self.ll - self.lt * self.lq) / determinant
            if linear >= 0 and quadratic >= 0:
                return linear, quadratic
            if linear < 0 and self.qq:
                return 0.0, self.qt / self.qq
        return self.lt / self.ll, 0.0
