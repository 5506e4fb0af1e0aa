"""What requests that run together may hold: places, KV, and the fullest moment that is to come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Need(NamedTuple):
    """What one request holds, in tokens. A tuple, since sets of them are looked up in every decision.

    Attributes:
        prompt: all of it.
        completion: what it is expected to generate in all.
        cached: of the prompt, given back by the server's prompt cache.
        among: once it generates: prompts that were read together at most, its own included. 0: it is unread.
        longest: the longest of these.
        segments: in which its prompt is read, at most. 0: nobody knows.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    among: int = 0
    longest: int = 0
    segments: int = 0

    def no_less_than(self, other: Need) -> bool:
        """Whether, both being unread, it holds no less than `other` at any time."""
        return (
            self.prompt >= other.prompt
            and self.completion >= other.completion
            and self.prompt - self.cached >= other.prompt - other.cached
            and self.segments == other.segments
        )


#: Of one of which nothing is known.
NOTHING = Need()


class Costs(Protocol):
    """The law, asked a few times in each decision. What it says rises with every member and every token."""

    @property
    def weights(self) -> int:
        """Bytes that are there when nothing runs."""

    def kv(self, needs: Sequence[Need], /) -> int:
        """Bytes of KV when all have grown."""

    def peak(self, needs: Sequence[Need], retained: int, /) -> int:
        """Bytes of the fullest moment until all have ended. `retained`: held now by those who have."""

    def left(self, needs: Sequence[Need], /) -> int:
        """Bytes that whoever ends first of these leaves behind."""

    def stale(self, last: Need, /) -> int:
        """Bytes of what is retained that go when the next one joins, `last` being the last that ran."""

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        """Tokens that fit alone under `ceiling` bytes, with nothing retained."""

    def corrected(self, alone: float, together: float, /) -> Costs:
        """The same law, the bytes beside the weights multiplied: of one that runs alone, of several."""


class _Free:
    """Nothing costs anything."""

    weights = 0

    def kv(self, needs: Sequence[Need], /) -> int:
        del needs
        return 0

    def peak(self, needs: Sequence[Need], retained: int, /) -> int:
        del needs, retained
        return 0

    def left(self, needs: Sequence[Need], /) -> int:
        del needs
        return 0

    def stale(self, last: Need, /) -> int:
        del last
        return 0

    def largest_prompt(self, ceiling: int, completion: int, /) -> int:
        del ceiling, completion
        return 0

    def corrected(self, alone: float, together: float, /) -> Costs:
        del alone, together
        return self


#: What everything costs before there is a plan.
FREE: Costs = _Free()


@dataclass(frozen=True, slots=True)
class Budget:
    """What there is to share, in bytes; None is no limit.

    Attributes:
        max_running: places.
        max_active_kv_bytes: KV of all together, by the padded law; who runs alone is not held to it.
        ceiling: everything, at the fullest moment.
        most: the highest ceiling of late. Who fits under it alone waits for it to come back; who does not
            never fits.
        costs: what sets of requests cost.
    """

    max_running: int
    max_active_kv_bytes: int | None = None
    ceiling: int | None = None
    most: int | None = None
    costs: Costs = FREE

    def has_room(self, running: Sequence[Need], newcomer: Need, retained: int) -> bool:
        """Whether `newcomer` may join the others, by cost."""
        together = (*running, newcomer)
        most = self.max_active_kv_bytes
        if running and most is not None and self.costs.kv(together) > most:
            return False
        return self.ceiling is None or self.costs.peak(together, retained) <= self.ceiling

    def ever_fits(self, need: Need) -> bool:
        """Whether it fits alone, nothing being retained, under the highest ceiling of late."""
        most = self.ceiling if self.most is None else self.most
        return self.ceiling is None or most is None or self.costs.peak((need,), 0) <= most

    def largest_prompt(self, completion: int) -> int:
        """The longest prompt, in tokens, of which `ever_fits` is true."""
        most = self.most if self.most is not None else self.ceiling
        return self.costs.largest_prompt(most or 0, completion)
