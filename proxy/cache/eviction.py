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


@dataclass(frozen=True, slots=True)
class FillerRequest:
    """One tiny request. `abandon`: leave once the child has begun on it."""

    body: dict[str, Any]
    abandon: bool


def tiny(number: int) -> FillerRequest:
    """The `number`th since the proxy started. No text is the beginning of another: that would replace it."""
    text = f"{number % 10**6:06d}"
    if number % 2:
        return FillerRequest(
            {"messages": [{"role": "user", "content": text}], "max_tokens": 64}, abandon=True
        )
    return FillerRequest({"prompt": text, "max_tokens": 1, "temperature": 0}, abandon=False)


@dataclass(frozen=True, slots=True)
class Eviction:
    """One go at it, after `sent` tiny requests. `entries`: that the cache has at most; 0 is not known."""

    entries: int
    sent: int = 0

    def after(self, more: int) -> Eviction:
        """So many more were sent."""
        return Eviction(self.entries, self.sent + more)

    @property
    def exhausted(self) -> bool:
        """Nothing old can be left."""
        return self.sent >= _PER_ENTRY * (self.entries or _ENTRIES)
