"""Pure. Learned answer lengths: how many tokens a client's answers usually take."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict

#: What an answer is taken for before anything is known, in tokens, and how many answers that counts for.
PRIOR_TOKENS = 1024

_PRIOR_WEIGHT = 10.0

#: Answers are foretold so that nine in ten are no longer.
_QUANTILE = 0.9

#: An answer counts half as much once 34 more of the same client have come.
_FADE = 0.98

#: Clients that are remembered; the one not seen for longest is forgotten first.
_CLIENTS = 256

#: Lengths are told apart in steps of a quarter octave, up to 2^20 tokens.
_STEPS_PER_OCTAVE, _BUCKETS = 4, 81
_MOST = [int(2 ** (bucket / _STEPS_PER_OCTAVE)) for bucket in range(_BUCKETS)]  # tokens of each


class AnswerLengths:
    """How many tokens each client's answers have."""

    def __init__(self) -> None:
        self._histograms: OrderedDict[str, list[float]] = OrderedDict()

    def expected(self, client: str) -> int:
        """Tokens that nine in ten answers do not exceed."""
        weights = self._histograms.get(client)
        if weights is None:
            return PRIOR_TOKENS
        wanted = _QUANTILE * sum(weights)
        for bucket, weight in enumerate(weights):
            wanted -= weight
            if wanted <= 0:
                return _MOST[bucket]
        return _MOST[_BUCKETS - 1]

    def learn(self, client: str, tokens: int) -> None:
        """An answer that came to its own end had `tokens`."""
        weights = self._histograms.pop(client, None) or _prior()
        weights = [weight * _FADE for weight in weights]
        weights[_bucket_of(tokens)] += 1
        self._histograms[client] = weights
        if len(self._histograms) > _CLIENTS:
            self._histograms.popitem(last=False)


def _prior() -> list[float]:
    weights = [0.0] * _BUCKETS
    weights[_bucket_of(PRIOR_TOKENS)] = _PRIOR_WEIGHT
    return weights


def _bucket_of(tokens: int) -> int:
    return min(bisect_left(_MOST, tokens), _BUCKETS - 1)
