"""Requests before one whose prompt is a whole key of the child's cache: without them it would kill the child.

Of such a prompt nothing is left to read, and `BatchGenerator.insert_segments` of mlx_lm/generate.py (0.32.2)
raises in the generation thread, which ends; outside the batch the request fails. It is what a completion
asks that goes on from an earlier prompt and all of its answer, and where caches cannot be trimmed also a chat
that is asked again without the thought that its template opened. So the key goes first:

A longer entry takes the place of those that it begins with, where it can be cut back. It is made by one more
token behind the same text, which is harmless: that token is left to read. Where no such text is found, or
caches cannot be cut back, tiny requests push the key out, and what came before it too: dear, but a death
takes all of it, and the load.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

from proxy.cache.eviction import FillerRequest, tiny
from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheSimulator

#: Ends of the longer text, after the tokenizer's own end: that no merge goes across it is likely, not sure.
_ENDS = ("\n", " ", "a", ".", "1")
#: The memory guard counts its tiny requests from 0; the same text twice would push nothing.
_FIRST_TINY = 500_000

Prompt = dict[str, Any]


class IdsLike(Protocol):
    """What is used of proxy.worker.prompt_ids.PromptIds."""

    def of(self, prompt: Prompt) -> Ids: ...

    def texts(self, prompt: Prompt) -> list[str]: ...

    def ends(self) -> list[str]: ...


class ExactHits:
    """Of one mirror."""

    def __init__(self, mirror: CacheSimulator, ids: IdsLike) -> None:
        self._mirror = mirror
        self._ids = ids
        self._numbers = itertools.count(_FIRST_TINY)

    def is_key(self, prompt: Prompt, ids: Ids) -> bool:
        """Whether the cache has, or may have, an entry of just these tokens."""
        return self._mirror.keyed(ids, guess=_is_text(prompt)) is not None

    def wanted(self, prompt: Prompt, ids: Ids) -> FillerRequest | None:
        """The next request to send; None if the prompt is no key (any more)."""
        key = self._mirror.keyed(ids, guess=_is_text(prompt))
        if key is None:
            return None
        self._mirror.settle(key, ids)
        longer = next(self._longer(prompt, ids), None)
        if longer is None:
            return tiny(next(self._numbers))
        return FillerRequest({"prompt": longer, "max_tokens": 1, "temperature": 0}, abandon=False)

    def _longer(self, prompt: Prompt, ids: Ids) -> Iterator[str]:
        """Texts whose tokens are these and more, and whose entry can be cut back."""
        if not self._mirror.rules.trims(len(ids)):
            return
        for text, end in itertools.product(self._ids.texts(prompt), (*self._ids.ends(), *_ENDS)):
            found = self._ids.of({"prompt": text + end})
            new = len(found) > len(ids) and self._mirror.keyed(found, guess=True) is None
            if new and found[: len(ids)] == ids and self._mirror.rules.trims(len(found) + 1):
                yield text + end


def _is_text(prompt: Prompt) -> bool:
    """What a chat ends with opens an answer, so it is never the end of one: there nothing is guessed."""
    return "prompt" in prompt
