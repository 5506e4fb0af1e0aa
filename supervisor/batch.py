"""What requests that run together hold, as the child is told to run them: KV, and fullest moment. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from supervisor import peak as fullest
from supervisor.peak import Model, Peak


@dataclass(frozen=True, slots=True)
class Member:
    """One running request, in tokens.

    Attributes:
        prompt: all of it.
        completion: still expected to be generated, at most.
        cached: of the prompt, given back by the server's prompt cache.
    """

    prompt: int
    completion: int
    cached: int = 0

    @property
    def rows(self) -> int:
        """Positions in the caches when it has ended."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Serving:
    """How the child runs: the model, and its flags.

    Attributes:
        step: --prefill-step-size.
        decodes, prompts: --decode-concurrency, --prompt-concurrency.
        kept_sequences, kept_bytes: --prompt-cache-size, --prompt-cache-bytes; None: no limit.
    """

    model: Model
    step: int
    decodes: int
    prompts: int
    kept_sequences: int
    kept_bytes: int | None = None


def kv(serving: Serving, members: Sequence[Member]) -> int:
    """Bytes of KV when all have grown: a batch is padded, so each costs as much as the longest."""
    return len(members) * serving.model.law.cold(_longest(members), serving.step) if members else 0


def peak(serving: Serving, members: Sequence[Member], retained: int = 0) -> Peak:
    """The fullest moment until all have ended, if nobody joins.

    Args:
        retained: bytes that finished sequences hold now: idle active memory less the weights.
    """
    found = fullest.peak(serving.model, _longest(members), max(1, len(members)), serving.step)
    return replace(found, caches=found.caches + retained)


def largest_prompt(serving: Serving, ceiling: int, completion: int) -> int:
    """The longest prompt that fits alone under `ceiling` bytes with nothing retained; 0 if none does."""
    low, high = 0, 1
    while peak(serving, [Member(high, completion)]).total <= ceiling and high < _ENDLESS:
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if peak(serving, [Member(middle, completion)]).total <= ceiling else (low, middle)
        )
    return low


#: Where a model's caches do not grow, any prompt fits.
_ENDLESS = 2**27


def _longest(members: Sequence[Member]) -> int:
    return max((member.rows for member in members), default=0)
