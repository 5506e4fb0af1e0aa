"""A workaround for mlx-lm 0.32.2, whose generation thread dies of a prompt that equals an entry of its cache.

Of such a prompt nothing is left to read, and `BatchGenerator.insert_segments` of mlx_lm/generate.py raises in
the generation thread, which ends; outside the batch the request fails. It happens when a completion continues
an earlier prompt and all of its answer, and, where entries cannot be cut back, when a chat is asked again
without the thought that its template opened. So the entry is removed first:

A longer entry replaces those that it begins with, if it can be cut back. One more token after the same text
makes one, and is harmless, since that token is left to read. If no such text is found, or entries cannot be
cut back, filler requests evict the entry and all that are older: this is expensive, but a death would lose
them all, and the load.

When mlx-lm accepts a prompt with nothing left to read, delete this module, `CachePredictor.avoid_exact_hit`
and `SearchStalls._avoid_exact_hit`, which are its only users.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from proxy.cache.eviction import FillerRequest, filler
from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheSimulator
from proxy.worker.prompt_ids import PromptIds

#: Ends of the longer text, tried after the tokenizer's own end: probably, but not surely, no merge spans
#: them.
_ENDS = ("\n", " ", "a", ".", "1")
#: Filler requests are numbered from here: memory reclaim counts from 0, and a text sent twice would evict
#: nothing.
_FIRST_FILLER = 500_000

Prompt = dict[str, Any]


class ExactHits:
    """Finds exact hits in one simulated cache."""

    def __init__(self, simulator: CacheSimulator, ids: PromptIds) -> None:
        self._simulator = simulator
        self._ids = ids
        self._numbers = itertools.count(_FIRST_FILLER)

    def is_hit(self, prompt: Prompt, ids: Ids) -> bool:
        """Whether the cache has, or may have, an entry with just these tokens."""
        return self._simulator.exact_entry(ids, guess=_is_text(prompt)) is not None

    def wanted(self, prompt: Prompt, ids: Ids) -> FillerRequest | None:
        """The next request to send; None if the prompt is no exact hit (any more)."""
        entry = self._simulator.exact_entry(ids, guess=_is_text(prompt))
        if entry is None:
            return None
        self._simulator.set_tokens(entry, ids)
        longer = next(self._longer(prompt, ids), None)
        if longer is None:
            return filler(next(self._numbers))
        return FillerRequest({"prompt": longer, "max_tokens": 1, "temperature": 0}, abandon=False)

    def _longer(self, prompt: Prompt, ids: Ids) -> Iterator[str]:
        """Texts with these tokens and more, whose entries can be cut back."""
        if not self._simulator.rules.trims(len(ids)):
            return
        for text, end in itertools.product(self._ids.texts(prompt), (*self._ids.ends(), *_ENDS)):
            found = self._ids.of({"prompt": text + end})
            new = len(found) > len(ids) and self._simulator.exact_entry(found, guess=True) is None
            if new and found[: len(ids)] == ids and self._simulator.rules.trims(len(found) + 1):
                yield text + end


def _is_text(prompt: Prompt) -> bool:
    """Whether unknown tokens are guessed: a chat's end opens an answer, so no answer ends with it."""
    return "prompt" in prompt
