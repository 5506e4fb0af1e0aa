"""What the tokenizer worker knows of the child's prompt cache: follows each request, foresees its search.

One request is followed by its id: `foresee` when it arrives, `asked` when it goes to the child, `read` when
its first token came, `ended`. All answers are plain JSON; None where nothing is known.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import Any

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheRules, CacheSimulator, SearchResult
from proxy.worker.exact_hits import ExactHits
from proxy.worker.prompt_ids import PromptIds, SegmentEnd, kept
from proxy.worker.search_shortcuts import LABEL, SearchShortcuts

#: What a child has answered before it is ready (supervisor/child/health.py).
CANARY = {"prompt": "a"}
#: Requests that are followed at once; a gateway that forgets some does not fill the worker.
_MOST_FOLLOWED = 1024


@dataclass(slots=True)
class _FollowedPrompt:
    """`cuts`: one only where the server does not run it in its batch, which keeps nothing on the way."""

    prompt: dict[str, Any]
    ids: Ids
    cuts: list[SegmentEnd]
    batched: bool
    label: str = ""
    cached: int = 0
    asked: bool = False
    read: bool = False


class CachePredictor:
    """Of one generation of the child at a time; knows nothing before the first `reset`."""

    def __init__(self, ids: PromptIds) -> None:
        self._ids = ids
        self._mirror: CacheSimulator | None = None
        self._cures: SearchShortcuts | None = None
        self._evasions: ExactHits | None = None
        self._followed: dict[str, _FollowedPrompt] = {}
        self._numbers = itertools.count(1)
        self._most_copied = 0

    def answer(self, request: dict[str, Any]) -> Any:
        """One request of the gateway (proxy/cache/search_stalls.py); `do` is the name of the method."""
        match request:
            case {"do": "reset", "rules": rules, "most_copied": most_copied}:
                return self.reset(rules, most_copied)
            case {"do": "foresee", "of": id, "prompt": prompt, "batched": batched}:
                return self.foresee(id, prompt, batched=batched)
            case {"do": "asked", "of": id}:
                return self.asked(id, anyway=request.get("anyway", False))
            case {"do": "evade", "of": id}:
                return self.evade(id)
            case {"do": "read", "of": id, "cached": cached}:
                return self.read(id, cached)
            case {"do": "ended", "of": id, "generated": generated, "cached": cached, "complete": complete}:
                return self.ended(id, generated, cached, complete=complete)
            case {"do": "cure"}:
                return self.cure()
        raise ValueError("unknown operation")

    def reset(self, rules: dict[str, Any], most_copied: int) -> None:
        """A new generation, whose cache has its canary. A search that copies more is a stall."""
        self._mirror = CacheSimulator(CacheRules(**rules))
        canary = self._ids.of(CANARY)
        for cut in kept(self._ids.cuts(CANARY, canary), 0):
            self._mirror.insert(canary[: cut.end], cut.kind)
        self._mirror.insert(canary, "assistant", unknown=1)
        self._cures = SearchShortcuts(self._mirror, self._ids.of)
        self._evasions = ExactHits(self._mirror, self._ids)
        self._most_copied = most_copied
        for followed in self._followed.values():
            followed.asked = followed.read = False

    def foresee(self, id: str, prompt: dict[str, Any], *, batched: bool) -> dict[str, Any] | None:
        """From now on it is followed; what is known of it, as the fields of core.disturbance.Told."""
        if self._mirror is None:
            return None
        followed = self._follow(id, prompt, batched=batched)
        return self._told(followed, self._mirror.search(followed.ids))

    def asked(self, id: str, *, anyway: bool = False) -> dict[str, Any] | None:
        """The same, now that the child gets it; None for one that is not followed.

        Only `anyway` if it is a key: it is to be evaded first.
        """
        mirror, followed = self._mirror, self._followed.get(id)
        if mirror is None or followed is None:
            return None
        found = mirror.search(followed.ids)
        told = self._told(followed, found)
        if told["key"] and not anyway:
            return told
        followed.cached, followed.asked, followed.read = mirror.cached(found), True, False
        if self._cures is not None and found.copied > self._most_copied:
            self._cures.stalled(followed.prompt, followed.ids, found)
        if followed.batched:
            mirror.joined(self._active_bytes(mirror))
        return told

    def evade(self, id: str) -> dict[str, Any] | None:
        """What to send before this request, whose prompt is a key; None if it is none, or not followed."""
        followed = self._followed.get(id)
        if self._evasions is None or followed is None:
            return None
        tiny = self._evasions.wanted(followed.prompt, followed.ids)
        return asdict(tiny) if tiny else None

    def read(self, id: str, cached: int | None = None) -> None:
        """Its prompt is read; `cached` of its tokens came from the cache, as far as the child told."""
        mirror, followed = self._mirror, self._followed.get(id)
        if mirror is None or followed is None or followed.read:
            return
        followed.read = True
        if cached is not None and cached != followed.cached:
            mirror.correct(followed.ids, cached)
            followed.cached = cached
        if followed.batched:
            for cut in kept(followed.cuts, followed.cached):
                mirror.insert(followed.ids[: cut.end], cut.kind, label=followed.label)

    def ended(self, id: str, generated: int, cached: int | None, *, complete: bool) -> None:
        """The child is done with it. What it cut short it does not keep, beyond what it had read."""
        if complete:
            self.read(id, cached)
        followed = self._followed.pop(id, None)
        if self._mirror is None or self._cures is None or followed is None:
            return
        if complete:
            self._mirror.insert(followed.ids, "assistant", unknown=generated, label=followed.label)
        if followed.read and len(followed.ids) ** 2 // 2 > self._most_copied and not followed.label:
            self._cures.long_path(followed.prompt, followed.ids)

    def cure(self) -> dict[str, Any] | None:
        """The request that is wanted most, already followed and asked: the fields of its prompt, its id."""
        cure = self._cures.wanted(self._most_copied) if self._cures is not None else None
        if cure is None:
            return None
        id = f"{LABEL}{next(self._numbers)}"
        followed = self._follow(id, cure, batched=True)
        followed.label = id
        told = self.asked(id)
        if told is None or told["key"]:
            del self._followed[id]
            return None
        return {"id": id, "prompt": _sendable(cure), "tokens": len(followed.ids), **told}

    def _follow(self, id: str, prompt: dict[str, Any], *, batched: bool) -> _FollowedPrompt:
        ids = self._ids.of(prompt)
        followed = _FollowedPrompt(prompt, ids, self._ids.cuts(prompt, ids) if batched else [], batched)
        self._followed[id] = followed
        while len(self._followed) > _MOST_FOLLOWED:
            del self._followed[next(iter(self._followed))]
        return followed

    def _told(self, followed: _FollowedPrompt, found: SearchResult) -> dict[str, Any]:
        assert self._mirror is not None and self._evasions is not None
        lengths = [entry.length for entry in self._mirror.entries()]
        return {
            "tokens": len(followed.ids),
            "cached": self._mirror.cached(found),
            "copied": found.copied,
            "key": self._evasions.is_key(followed.prompt, followed.ids),
            "twin": len(followed.ids) in lengths,
            "longest": max(lengths, default=0),
            "leaves": [cut.end for cut in kept(followed.cuts, 0)],  # fewer, if some come from the cache
        }

    def _active_bytes(self, mirror: CacheSimulator) -> int:
        running = (followed for followed in self._followed.values() if followed.asked)
        return sum(mirror.rules.bytes_of(len(followed.ids)) for followed in running)


def _sendable(prompt: dict[str, Any]) -> dict[str, Any]:
    """As a client would send it: rendering has parsed the arguments of tool calls in place."""
    messages = [{**message} for message in prompt.get("messages", ())]
    for message in messages:
        if message.get("tool_calls"):
            message["tool_calls"] = [_unparsed(call) for call in message["tool_calls"]]
    return {**prompt, "messages": messages} if messages else prompt


def _unparsed(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    if not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}
