"""What pushes kept sequences out of the server's prompt cache: tiny requests, when, and how many. Pure.

The cache (mlx_lm/models/cache.py, LRUPromptCache) drops one entry for each that comes in over its size: the
oldest answer while there are at least as many answers as prompts, else the oldest prompt. An answer that
ended leaves an answer; one that its client left during or before its first tokens leaves a prompt. So both
kinds are sent by turns: with one kind alone, half of the cache stays (measured: five of ten entries). Since
the oldest go first, sessions that were seen lately keep theirs longest.

Answers are pushed by completions, not chats: they share no first tokens with what is kept, so the server
neither searches along a long session nor copies from one. A completion of one token adds as little as can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: So many for each entry: both kinds have to be pushed out, by turns, however many there are of each. That
#: nothing comes free at first means nothing: the oldest may be tiny ones of the last time.
_PER_ENTRY = 2
#: Of a server whose cache is not known: its own default.
_ENTRIES = 10

#: Seconds between two recycles for memory, at first; twice as long after each, up to a day.
RECYCLE_S = 600.0
_LONGEST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Tiny:
    """One tiny request. `abandon`: leave once the child has begun on it."""

    body: dict[str, Any]
    abandon: bool


def tiny(number: int) -> Tiny:
    """The `number`th since the proxy started. No text is the beginning of another: that would replace it."""
    text = f"{number % 10**6:06d}"
    if number % 2:
        return Tiny({"messages": [{"role": "user", "content": text}], "max_tokens": 64}, abandon=True)
    return Tiny({"prompt": text, "max_tokens": 1, "temperature": 0}, abandon=False)


@dataclass(frozen=True, slots=True)
class Displacing:
    """One go at it, after `sent` tiny requests. `entries`: that the cache has at most; 0 is not known."""

    entries: int
    sent: int = 0

    def after(self, more: int) -> Displacing:
        """So many more were sent."""
        return Displacing(self.entries, self.sent + more)

    @property
    def exhausted(self) -> bool:
        """Nothing old can be left."""
        return self.sent >= _PER_ENTRY * (self.entries or _ENTRIES)


@dataclass(frozen=True, slots=True)
class Recycles:
    """Planned restarts for memory: never in a loop. Monotonic seconds."""

    last: float | None = None
    count: int = 0

    def due(self, now: float) -> bool:
        """Whether there may be one now."""
        if self.last is None:
            return True
        return now - self.last >= min(RECYCLE_S * 2.0 ** (self.count - 1), _LONGEST_S)

    def after(self, now: float) -> Recycles:
        """There was one. After a quiet day the first pause holds again."""
        quiet = self.last is None or now - self.last >= _LONGEST_S
        return Recycles(now, 1 if quiet else self.count + 1)
