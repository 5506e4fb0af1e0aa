"""Pure. Evicting retained sequences from the server's prompt cache: which filler requests, and how many.

The cache (mlx_lm/models/cache.py, LRUPromptCache) drops one entry for each that is inserted above its size:
the oldest answer while there are at least as many answers as prompts, else the oldest prompt. A completed
answer is kept as an answer; one whose client disconnected before or during its first tokens is kept as a
prompt. So both kinds are sent in turn: with one kind alone, half of the cache stays (measured: five of ten
entries). Since the oldest are dropped first, sessions that were used recently keep their entries longest.

Answers are evicted by completions, not chats: they share no first tokens with what is retained, so the server
neither searches along a long session nor copies from one. A completion of one token adds the least possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Filler requests for each entry: both kinds have to be evicted, in turn, however many there are of each.
#: That no memory comes free at first proves nothing: the oldest entries may be fillers of the last time.
FILLERS_PER_ENTRY = 2
#: The server's own default size, for a server whose cache is not known.
_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class FillerRequest:
    """One small request. `abandon`: disconnect once the child has begun on it."""

    body: dict[str, Any]
    abandon: bool


def filler(number: int) -> FillerRequest:
    """The `number`th since the proxy started. No text begins another, which would replace its entry."""
    text = f"{number % 10**6:06d}"
    if number % 2:
        return FillerRequest(
            {"messages": [{"role": "user", "content": text}], "max_tokens": 64}, abandon=True
        )
    return FillerRequest({"prompt": text, "max_tokens": 1, "temperature": 0}, abandon=False)


@dataclass(frozen=True, slots=True)
class Eviction:
    """One eviction, after `sent` filler requests. `entries`: the size of the cache; 0: not known."""

    entries: int
    sent: int = 0

    def after(self, more: int) -> Eviction:
        """The eviction after `more` filler requests."""
        return Eviction(self.entries, self.sent + more)

    @property
    def exhausted(self) -> bool:
        """Whether nothing old can be left."""
        return self.sent >= FILLERS_PER_ENTRY * (self.entries or _ENTRIES)
