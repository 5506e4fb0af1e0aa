"""Pure. Filler requests, which evict retained sequences from the server's prompt cache.

The cache (mlx_lm/models/cache.py, LRUPromptCache) drops one entry for each that is inserted above its size:
the oldest answer while there are at least as many answers as prompts, else the oldest prompt. A completed
answer is kept as an answer; one whose client disconnected before or during its first tokens is kept as a
prompt. Where nothing is known of the cache, both kinds are sent in turn: with one kind alone, half of it
stays (measured: five of ten entries). Otherwise eviction_plan.py says which are enough. Since the oldest are
dropped first, sessions that were used recently keep their entries longest.

Answers are evicted by completions, not chats: they share no first tokens with what is retained, so the server
neither searches along a long session nor copies from one. A completion of one token adds the least possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Filler requests for each entry: both kinds have to be evicted, in turn, however many there are of each.
#: That no memory comes free at first proves nothing: the oldest entries may be fillers of the last time.
_PER_ENTRY = 2
#: The server's own default size, for a server whose cache is not known.
UNKNOWN_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class FillerRequest:
    """One small request. `abandon`: disconnect once the child has begun on it."""

    body: dict[str, Any]
    abandon: bool


def filler(number: int, kind: str | None = None) -> FillerRequest:
    """The `number`th since the proxy started. No text begins another, which would replace its entry.

    `kind`: of the entry that it leaves, "assistant" or "user"; None: one and the other in turn.
    """
    kind = kind or ("user" if number % 2 else "assistant")
    text = f"{number % 10**6:06d}"
    if kind == "user":
        return FillerRequest(
            {"messages": [{"role": "user", "content": text}], "max_tokens": 64}, abandon=True
        )
    return FillerRequest({"prompt": text, "max_tokens": 1, "temperature": 0}, abandon=False)


def enough(entries: int) -> int:
    """Filler requests after which nothing old is left in a cache of this size; 0: not known."""
    return _PER_ENTRY * (entries or UNKNOWN_ENTRIES)
