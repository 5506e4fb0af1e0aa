"""Short requests that end the server's search for the next ones: where one is wanted, and of what it is made.

A search goes from where a prompt leaves the known paths to the nearest end, the path that came last first.
So a short entry ends it that shares the beginning up to there, or farther, and came later: cutting a prompt
behind the place where others will leave it makes one. New sessions of the same agent leave behind its system
prompt; unrelated ones a few tokens after the template's first. Other places are learned where they stall.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheSimulator, SearchResult
from proxy.worker.prompt_ids import system_messages
from proxy.worker.segments import common

#: The labels of the entries that cures leave begin so.
LABEL = "cure-"
#: Characters of the message in which others leave: they may begin alike, and then are covered too. What all
#: sessions of an agent share may stand in the first message of the user too; a long cut is too much beside a
#: path that is not much longer.
_ALIKE, _LITTLE_ALIKE = 16_000, 400
#: A cure is at most this part of the path that it stands beside: it takes memory itself.
_SHARE = 3
#: Entries of the cache for one cure, whose own segments are kept too where caches cannot be trimmed.
_PLACES_PER_CURE, _PLACES_PER_CURE_UNTRIMMED = 3, 4
_MOST_POINTS = 24
_MOST_TRIES = 2
#: A token that no prompt has and that no entry contains.
_NEVER = array("i", [-(2**31)])

Prompt = dict[str, Any]


@dataclass(slots=True, eq=False)
class _Point:
    """A place where prompts leave a long path: the tokens up to there, and the cure for it."""

    ids: Ids
    prompt: Prompt
    tries: int = 0


class SearchShortcuts:
    """Of one mirror. `ids_of` gives a prompt's tokens, and raises what a template raises."""

    def __init__(self, mirror: CacheSimulator, ids_of: Callable[[Prompt], Ids]) -> None:
        self._mirror = mirror
        self._ids_of = ids_of
        self._points: list[_Point] = []

    def long_path(self, prompt: Prompt, ids: Ids) -> None:
        """A long prompt was read: others will leave it behind what agents send each time."""
        for short in _beginnings(prompt):
            self._add(short, ids, len(ids))

    def stalled(self, prompt: Prompt, ids: Ids, found: SearchResult) -> None:
        """A prompt had a long search: others may leave at the same place."""
        short = self._until(prompt, ids, found.shared)
        if short is not None:
            self._add(short, ids[: found.shared], found.longer)

    def wanted(self, most_copied: int) -> Prompt | None:
        """The cure for a place whose search copies more than `most_copied`.

        The deepest of them first: its cure ends the searches from all places above it too.
        """
        places = _PLACES_PER_CURE if self._mirror.rules.trims(1) else _PLACES_PER_CURE_UNTRIMMED
        held = len({entry.label for entry in self._mirror.entries() if entry.label.startswith(LABEL)})
        if held >= self._mirror.rules.sequences // places:
            return None
        bad = [point for point in self._points if self._stalls(point, most_copied)]
        worst = max(bad, key=lambda point: len(point.ids), default=None)
        if worst is not None:
            worst.tries += 1
        return worst.prompt if worst else None

    def _stalls(self, point: _Point, most_copied: int) -> bool:
        if self._mirror.search(point.ids + _NEVER).copied <= most_copied:
            point.tries = 0
            return False
        return point.tries < _MOST_TRIES

    def _add(self, short: Prompt, ids: Ids, path: int) -> None:
        """`path`: tokens of the one that is searched."""
        try:
            tokens = self._ids_of(short)
        except Exception:  # noqa: BLE001 - a template raises what it likes; then there is no such cure
            return
        place = ids[: common(tokens, ids)]
        if len(tokens) * _SHARE > path or any(point.ids == place for point in self._points):
            return
        self._points = [*self._points[1 - _MOST_POINTS :], _Point(place, short)]

    def _until(self, prompt: Prompt, ids: Ids, shared: int) -> Prompt | None:
        """The fewest messages of a conversation that reach so far, and of the last its start if that does."""
        messages = prompt.get("messages", ())
        low, high = 0, len(messages)
        while low + 1 < high:
            middle = (low + high) // 2
            if self._reach({**prompt, "messages": messages[:middle]}, ids) >= shared:
                high = middle
            else:
                low = middle
        if not messages:
            return None
        last = messages[high - 1]
        cut = {
            **prompt,
            "messages": [*messages[: high - 1], {**last, "content": _start(last, _LITTLE_ALIKE)}],
        }
        return cut if self._reach(cut, ids) >= shared else {**prompt, "messages": messages[:high]}

    def _reach(self, prompt: Prompt, ids: Ids) -> int:
        try:
            return common(self._ids_of(prompt), ids)
        except Exception:  # noqa: BLE001 - as above: a conversation that ends so is not accepted
            return 0


def _beginnings(prompt: Prompt) -> list[Prompt]:
    """What new sessions may share of this prompt: all that its agent sends each time, or the first words."""
    if "prompt" in prompt:
        return [{"prompt": prompt["prompt"][:length]} for length in (_ALIKE, _LITTLE_ALIKE)]
    messages = prompt["messages"]
    system = system_messages(messages)
    first = messages[len(system)] if len(messages) > len(system) else {"role": "user", "content": ""}
    starts = [_start(first, length) for length in (_ALIKE, _LITTLE_ALIKE)]
    cuts = [{**prompt, "messages": [*system, {"role": "user", "content": start or "."}]} for start in starts]
    if system:
        head = {**system[0], "content": _start(system[0], _LITTLE_ALIKE)}
        cuts.append({**prompt, "messages": [head, {"role": "user", "content": "."}], "tools": None})
    return cuts


def _start(message: dict[str, Any], length: int) -> str:
    content = message.get("content")
    return content[:length] if isinstance(content, str) else ""
