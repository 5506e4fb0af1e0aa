"""A workaround for mlx-lm 0.32.2: short requests whose entries end quadratic searches of its prompt cache.

`PromptTrie.search` walks from where a prompt leaves the known paths to the nearest end, the latest path
first, and copies the list of steps at each. A short entry that shares the beginning up to there, or farther,
and came later ends the search: cutting a prompt just behind the position where others will leave it makes
one. New sessions of the same agent leave it behind the system prompt, unrelated ones a few tokens after the
template's first. Other positions are learned from searches that stalled.

When mlx-lm no longer copies the list, delete this module, `CachePredictor.shortcut` with its two notes, and
`SearchStalls._send_shortcuts`, which are its only users.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheSimulator, SearchResult
from proxy.worker.prompt_ids import system_messages
from proxy.worker.segments import common_prefix

#: The label of each entry that a shortcut inserts begins with this.
LABEL = "search_shortcut-"
#: A shortcut includes this many characters of the message in which others leave, since they may begin alike:
#: what all sessions of an agent share may be in the user's first message, too.
_ALIKE = 16_000
#: The shorter choice, for paths that are not much longer than the other.
_LITTLE_ALIKE = 400
#: A shortcut is at most a third as long as the path that it serves, since it takes memory itself.
_SHARE = 3
#: The cache may have one shortcut for each three entries.
_ENTRIES_PER_SHORTCUT = 3
#: It may have one for each four if entries cannot be cut back, as then the shortcut's segments are kept, too.
_ENTRIES_PER_SHORTCUT_UNTRIMMED = 4
#: This many positions are remembered, the latest ones.
_MOST_POINTS = 24
#: A shortcut that did not help is tried this often.
_MOST_TRIES = 2
#: A token that no prompt and no entry contains.
_NEVER = array("i", [-(2**31)])

Prompt = dict[str, Any]


@dataclass(slots=True, eq=False)
class _Point:
    """A position where prompts leave a long path: the tokens up to there, and the shortcut for it."""

    ids: Ids
    prompt: Prompt
    tries: int = 0


class SearchShortcuts:
    """The shortcuts for one simulated cache. `ids_of`: a prompt's tokens; raises what its template raises."""

    def __init__(self, simulator: CacheSimulator, ids_of: Callable[[Prompt], Ids]) -> None:
        self._simulator = simulator
        self._ids_of = ids_of
        self._points: list[_Point] = []

    def note_long_prompt(self, prompt: Prompt, ids: Ids) -> None:
        """Note a long prompt that was read: others will leave it behind what agents send each time."""
        for short in _beginnings(prompt):
            self._add(short, ids, len(ids))

    def note_stall(self, prompt: Prompt, ids: Ids, found: SearchResult) -> None:
        """Note a prompt with a long search: others may leave at the same position."""
        short = self._until(prompt, ids, found.shared)
        if short is not None:
            self._add(short, ids[: found.shared], found.longer)

    def wanted(self, max_cost: int) -> Prompt | None:
        """The shortcut for a position whose search costs more than `max_cost`.

        The deepest position comes first: its shortcut ends the searches from all positions above it, too.
        """
        trims = self._simulator.rules.trims(1)
        entries_each = _ENTRIES_PER_SHORTCUT if trims else _ENTRIES_PER_SHORTCUT_UNTRIMMED
        held = len({entry.label for entry in self._simulator.entries() if entry.label.startswith(LABEL)})
        if held >= self._simulator.rules.sequences // entries_each:
            return None
        bad = [point for point in self._points if self._stalls(point, max_cost)]
        worst = max(bad, key=lambda point: len(point.ids), default=None)
        if worst is not None:
            worst.tries += 1
        return worst.prompt if worst else None

    def _stalls(self, point: _Point, max_cost: int) -> bool:
        if self._simulator.search(point.ids + _NEVER).cost <= max_cost:
            point.tries = 0
            return False
        return point.tries < _MOST_TRIES

    def _add(self, short: Prompt, ids: Ids, path: int) -> None:
        """Remember a position, with `short` as its shortcut. `path`: length of the path that is searched."""
        try:
            tokens = self._ids_of(short)
        except Exception:  # noqa: BLE001 - a template may raise anything; then there is no such shortcut
            return
        shared = ids[: common_prefix(tokens, ids)]
        if len(tokens) * _SHARE > path or any(point.ids == shared for point in self._points):
            return
        self._points = [*self._points[1 - _MOST_POINTS :], _Point(shared, short)]

    def _until(self, prompt: Prompt, ids: Ids, shared: int) -> Prompt | None:
        """The fewest messages that share `shared` tokens, the last one cut to its start if that is enough."""
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
        shortened = {**last, "content": _start(last, _LITTLE_ALIKE)}
        cut = {**prompt, "messages": [*messages[: high - 1], shortened]}
        return cut if self._reach(cut, ids) >= shared else {**prompt, "messages": messages[:high]}

    def _reach(self, prompt: Prompt, ids: Ids) -> int:
        try:
            return common_prefix(self._ids_of(prompt), ids)
        except Exception:  # noqa: BLE001 - as above: the template does not accept such an end
            return 0


def _beginnings(prompt: Prompt) -> list[Prompt]:
    """Beginnings that new sessions may share with a prompt: what its agent always sends, or less."""
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
