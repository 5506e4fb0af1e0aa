"""Predicts how the child's prompt cache serves each request; for the tokenizer worker.

A request is followed by its id: `predict` when it arrives, `asked` when it goes to the child, `read` when its
first token came, `ended`. All answers are plain JSON; None means that nothing is known.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import Any

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheRules, CacheSimulator, SearchResult
from proxy.worker.exact_hits import ExactHits
from proxy.worker.prompt_ids import PromptIds, SegmentEnd, stored_ends
from proxy.worker.search_shortcuts import LABEL, SearchShortcuts

#: The request that each child has answered before it is ready (supervisor/child/health.py).
CANARY = {"prompt": "a"}
#: The methods that the gateway may call.
_OPERATIONS = {"reset", "predict", "asked", "avoid_exact_hit", "read", "ended", "contents", "shortcut"}
#: The fields of a request that are no arguments of a method.
_ENVELOPE = {"id", "op", "do", "incremental"}
#: At most this many requests are followed, so that a gateway that forgets some cannot fill the worker.
_MOST_FOLLOWED = 1024


@dataclass(slots=True)
class _FollowedPrompt:
    """A prompt that is followed. `cuts`: none outside the server's batch, which alone stores segments."""

    prompt: dict[str, Any]
    ids: Ids
    cuts: list[SegmentEnd]
    batched: bool
    label: str = ""
    session: str = ""
    cached: int = 0
    asked: bool = False
    read: bool = False


class CachePredictor:
    """Follows one generation of the child at a time; knows nothing before the first `reset`."""

    def __init__(self, ids: PromptIds) -> None:
        self._ids = ids
        self._followed: dict[str, _FollowedPrompt] = {}
        self._numbers = itertools.count(1)
        self._knows_child = False
        self._begin(CacheRules(), 0)

    def answer(self, request: dict[str, Any]) -> Any:
        """Answer one request of the gateway (proxy/cache/client.py); `do` is the name of the method."""
        if request["do"] not in _OPERATIONS:
            raise ValueError("unknown operation")
        fields = {name: value for name, value in request.items() if name not in _ENVELOPE}
        return getattr(self, request["do"])(**fields)

    def reset(self, rules: dict[str, Any], max_cost: int) -> None:
        """Follow a new generation, whose cache has its canary. A search above `max_cost` is a stall."""
        self._begin(CacheRules(**rules), max_cost)
        self._knows_child = True
        canary = self._ids.of(CANARY)
        for cut in stored_ends(self._ids.segment_ends(CANARY, canary), 0):
            self._simulator.insert(canary[: cut.end], cut.kind)
        self._simulator.insert(canary, "assistant", unknown=1)
        for followed in self._followed.values():
            followed.asked = followed.read = False

    def predict(
        self, of: str, prompt: dict[str, Any], *, batched: bool, session: str = ""
    ) -> dict[str, Any] | None:
        """Follow a prompt of `session` from now on; the fields of `proxy.cache.staleness.CachePrediction`."""
        if not self._knows_child:
            return None
        followed = self._follow(of, prompt, batched=batched)
        followed.session = session
        return self._prediction(followed, self._simulator.search(followed.ids))

    def asked(self, of: str, *, anyway: bool = False) -> dict[str, Any] | None:
        """Note that the child is asked now; the prediction, or None for a prompt that is not followed.

        An exact hit is not noted unless `anyway`: it has to be avoided first.
        """
        simulator, followed = self._simulator, self._followed.get(of)
        if followed is None:
            return None
        found = simulator.search(followed.ids)
        prediction = self._prediction(followed, found)
        if prediction["exact_hit"] and not anyway:
            return prediction
        followed.cached, followed.asked, followed.read = simulator.cached(found), True, False
        if found.cost > self._max_cost:
            self._shortcuts.note_stall(followed.prompt, followed.ids, found)
        if followed.batched:
            asked = (each for each in self._followed.values() if each.asked)
            simulator.joined(sum(simulator.rules.bytes_of(len(each.ids)) for each in asked))
        return prediction

    def avoid_exact_hit(self, of: str) -> dict[str, Any] | None:
        """The next request to send before this one; None if its prompt is no exact hit, or not followed."""
        followed = self._followed.get(of)
        if followed is None:
            return None
        before = self._exact_hits.wanted(followed.prompt, followed.ids)
        return asdict(before) if before else None

    def read(self, of: str, cached: int | None = None) -> None:
        """Note that its prompt is read; it took `cached` tokens from the cache, if the child said so."""
        simulator, followed = self._simulator, self._followed.get(of)
        if followed is None or followed.read:
            return
        followed.read = True
        if cached is not None and cached != followed.cached:
            simulator.correct(followed.ids, cached)
            followed.cached = cached
        if followed.batched:
            for cut in stored_ends(followed.cuts, followed.cached):
                label, session = followed.label, followed.session
                simulator.insert(followed.ids[: cut.end], cut.kind, label=label, session=session)

    def ended(self, of: str, generated: int, cached: int | None, *, complete: bool) -> None:
        """Note that the child is done with it. Of an incomplete answer it keeps only what was read before."""
        if complete:
            self.read(of, cached)
        followed = self._followed.pop(of, None)
        if followed is None:
            return
        if complete:
            label, session = followed.label, followed.session
            self._simulator.insert(followed.ids, "assistant", unknown=generated, label=label, session=session)
        if followed.read and len(followed.ids) ** 2 // 2 > self._max_cost and not followed.label:
            self._shortcuts.note_long_prompt(followed.prompt, followed.ids)

    def contents(self) -> list[tuple[str, int, str]] | None:
        """(session, tokens, kind) of each entry, the oldest first; None before the first `reset`."""
        if not self._knows_child:
            return None
        entries = sorted(self._simulator.entries(), key=lambda entry: entry.number)
        return [(entry.session, entry.length, entry.kind) for entry in entries]

    def shortcut(self) -> dict[str, Any] | None:
        """The search shortcut that is wanted most, already asked: its id, prompt and prediction."""
        shortcut = self._shortcuts.wanted(self._max_cost)
        if shortcut is None:
            return None
        id = f"{LABEL}{next(self._numbers)}"
        followed = self._follow(id, shortcut, batched=True)
        followed.label = id
        prediction = self.asked(id)
        if prediction is None or prediction["exact_hit"]:
            del self._followed[id]
            return None
        return {"id": id, "prompt": _sendable(shortcut), **prediction}

    def _begin(self, rules: CacheRules, max_cost: int) -> None:
        self._max_cost = max_cost
        self._simulator = CacheSimulator(rules)
        self._shortcuts = SearchShortcuts(self._simulator, self._ids.of)
        self._exact_hits = ExactHits(self._simulator, self._ids)

    def _follow(self, id: str, prompt: dict[str, Any], *, batched: bool) -> _FollowedPrompt:
        ids = self._ids.of(prompt)
        cuts = self._ids.segment_ends(prompt, ids) if batched else []
        followed = _FollowedPrompt(prompt, ids, cuts, batched)
        self._followed[id] = followed
        while len(self._followed) > _MOST_FOLLOWED:
            del self._followed[next(iter(self._followed))]
        return followed

    def _prediction(self, followed: _FollowedPrompt, found: SearchResult) -> dict[str, Any]:
        lengths = [entry.length for entry in self._simulator.entries()]
        return {
            "tokens": len(followed.ids),
            "cached": self._simulator.cached(found),
            "cost": found.cost,
            "exact_hit": self._exact_hits.is_hit(followed.prompt, followed.ids),
            "same_length": len(followed.ids) in lengths,
            "longest": max(lengths, default=0),
            # at most: tokens from the cache are not inserted again
            "inserts": [cut.end for cut in stored_ends(followed.cuts, 0)],
        }


def _sendable(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt as a client would send it: rendering has parsed the arguments of tool calls in place."""
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
