"""Pure. Predicts how long a client's answers will be from the lengths of its past ones."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict

#: Predicted length of an answer, in tokens, before anything is known about its client.
PRIOR_TOKENS = 1024
#: The prior counts as this many answers.
_PRIOR_WEIGHT = 10.0
#: The share of answers that are no longer than predicted.
_QUANTILE = 0.9
#: Each answer multiplies the weight of the same client's earlier ones by this; after 34 it is halved.
_FADE = 0.98
#: Clients that are remembered; the one that answered least recently is forgotten first.
_MAX_CLIENTS = 256
#: Lengths are counted in buckets of a quarter octave.
_STEPS_PER_OCTAVE = 4
#: The largest bucket ends at 2^20 tokens.
_BUCKETS = 81
#: The largest length in each bucket, in tokens.
_MOST = [int(2 ** (bucket / _STEPS_PER_OCTAVE)) for bucket in range(_BUCKETS)]


class AnswerLengths:
    """Histograms of answer lengths, by client."""

    def __init__(self) -> None:
        self._histograms: OrderedDict[str, list[float]] = OrderedDict()

    def expected(self, client: str) -> int:
        """The number of tokens that nine in ten of the client's answers do not exceed."""
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
        """Count an answer of `tokens` that came to its own end."""
        weights = self._histograms.pop(client, None) or _prior()
        weights = [weight * _FADE for weight in weights]
        weights[_bucket_of(tokens)] += 1
        self._histograms[client] = weights
        if len(self._histograms) > _MAX_CLIENTS:
            self._histograms.popitem(last=False)


def _prior() -> list[float]:
    weights = [0.0] * _BUCKETS
    weights[_bucket_of(PRIOR_TOKENS)] = _PRIOR_WEIGHT
    return weights


def _bucket_of(tokens: int) -> int:
    return min(bisect_left(_MOST, tokens), _BUCKETS - 1)
