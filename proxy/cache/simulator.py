"""Pure. Simulates the server's prompt cache, from the token ids that the proxy has seen.

It follows `LRUPromptCache` and `PromptTrie` of mlx_lm/models/cache.py (0.32.2) entry by entry, so it predicts
what a prompt will be given from the cache, and how long the server will search for it. The search is what
stalls a server: where a prompt leaves the known paths, every path below is followed to its nearest end, and
each step copies the list of steps so far (`extra + [tok]`), which is quadratic in the distance.
`SearchResult.cost` counts the items of those lists; the seconds per item depend on the machine
(proxy/cache/search_times.py).

Two things differ from the server: a run of tokens is one node here, and generated tokens, whose ids are not
known, are negative numbers, which no prompt contains, until a later prompt shows what they were.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise

from proxy.cache.radix_tree import CacheEntry, EntryKind, Ids, Node, add, descend, follow, join

#: The order of eviction: each kind is evicted while it has at least as many entries as the next.
_ORDER: tuple[EntryKind, ...] = ("assistant", "user", "system")


@dataclass(frozen=True, slots=True)
class CacheRules:
    """The limits of the child's cache.

    Attributes:
        sequences, most_bytes: --prompt-cache-size and --prompt-cache-bytes; None: no limit. The server
            applies the second only when a request joins its batch.
        trimmable_below: an entry of fewer tokens can be cut back; 0 with linear attention, None: every entry.
            With sliding windows it is the smallest window.
        row_bytes, constant_bytes: size of a retained sequence, per token and once.
    """

    sequences: int = 10
    most_bytes: int | None = None
    trimmable_below: int | None = None
    row_bytes: int = 0
    constant_bytes: int = 0

    def trims(self, length: int) -> bool:
        return self.trimmable_below is None or length < self.trimmable_below

    def bytes_of(self, length: int) -> int:
        return self.constant_bytes + self.row_bytes * length


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What the server's search finds for a prompt.

    Attributes:
        length: of the prompt, in tokens.
        shared: tokens before the prompt leaves the known paths; all of it if it does not.
        exact: the whole prompt is an entry.
        shorter: tokens of the longest entry that the prompt begins with; 0 if there is none.
        longer: tokens of the nearest entry below the position where it leaves; 0 if there is none.
        cost: list items that the search copies: `distance**2 / 2` for one path of that length.
    """

    length: int
    shared: int
    exact: bool
    shorter: int
    longer: int
    cost: int


class CacheSimulator:
    """The prompt cache of one generation of the child."""

    def __init__(self, rules: CacheRules) -> None:
        self.rules = rules
        self._root = Node(array("i"), None)
        self._queues: dict[EntryKind, dict[CacheEntry, None]] = {kind: {} for kind in _ORDER}
        self._bytes = 0
        self._unknown = 0
        self._numbers = count(1)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def entries(self) -> Iterator[CacheEntry]:
        """All entries, within each kind in the order of their eviction."""
        for queue in self._queues.values():
            yield from queue

    def search(self, ids: Ids) -> SearchResult:
        """`PromptTrie.search`: the same result, and its cost."""
        match = follow(self._root, ids)
        if match.exact or not match.depth:
            return SearchResult(len(ids), match.depth, match.exact, 0, 0, 0)
        _, distance, cost = descend(match.node, match.inside)
        return SearchResult(len(ids), match.depth, False, match.shorter, match.depth + distance, cost)

    def cached(self, found: SearchResult) -> int:
        """Tokens of the prompt that the server takes from its cache (`fetch_nearest_cache`)."""
        if found.exact:
            return found.length
        if found.shared > found.shorter and found.longer and self.rules.trims(found.longer):
            return min(found.length - 1, found.shared)
        return found.shorter

    def insert(
        self, ids: Ids, kind: EntryKind, *, unknown: int = 0, label: str = "", session: str = ""
    ) -> None:
        """`insert_cache`: `ids`, then `unknown` generated tokens."""
        if unknown:
            self._unknown += 1
            ids = ids + array("i", [-self._unknown]) * unknown
        node = add(self._root, ids)
        if node.entry is not None:
            self._forget(node.entry)
        node.entry = CacheEntry(node, kind, len(ids), label, session, next(self._numbers))
        self._queues[kind][node.entry] = None
        self._bytes += self.rules.bytes_of(len(ids))
        if self.rules.trims(len(ids)):
            self._drop_prefixes(node)
        if len(self) > self.rules.sequences:
            self._evict()

    def joined(self, active_bytes: int) -> None:
        """`trim_to`, when a request joins the batch: running requests take memory from retained sequences."""
        if self.rules.most_bytes is None:
            return
        while len(self) and self._bytes > max(0, self.rules.most_bytes - active_bytes):
            self._evict()

    def correct(self, ids: Ids, cached: int) -> None:
        """Apply that the server took `cached` tokens of this prompt from its cache.

        Fewer than simulated: entries are gone. More: generated tokens are known now.
        """
        while (expected := self.cached(self.search(ids))) > cached:
            self._drop(self._source(ids))
        if expected < cached:
            self._reveal(ids, cached)

    def exact_entry(self, ids: Ids, *, guess: bool) -> CacheEntry | None:
        """The entry with just these tokens; `guess`: or one that may have them, if some are unknown."""
        for entry in self.entries():
            if entry.length == len(ids):
                known = entry.length - sum(token < 0 for token in entry.node.run)
                if (known == len(ids) or guess) and _tokens(entry)[:known] == ids[:known]:
                    return entry
        return None

    def set_tokens(self, entry: CacheEntry, ids: Ids) -> None:
        """Take the tokens of an entry to be these."""
        node, known = entry.node, add(self._root, ids)
        if known is node:
            return
        if known.entry is not None:
            self._drop(entry)
            return
        node.entry, known.entry, entry.node = None, entry, known
        _prune(node)

    # The tree

    def _source(self, ids: Ids) -> CacheEntry:
        """The entry that the prompt would be served from."""
        match = follow(self._root, ids)
        if match.exact:
            return match.passed[-1]
        below, _, _ = descend(match.node, match.inside)
        if match.depth > match.shorter and self.rules.trims(below.length):
            return below
        return next(entry for entry in reversed(match.passed) if entry.length == match.shorter)

    def _reveal(self, ids: Ids, cached: int) -> None:
        """Take generated tokens after the shared part to be those that the prompt has there."""
        match = follow(self._root, ids)
        if match.inside < len(match.node.run) and match.node.run[match.inside] >= 0:
            return
        node, tokens = match.ending(), cached - match.depth
        tail = next((node.after[token] for token in reversed(node.after) if token < 0), None)
        if tail is None or (not self.rules.trims(cached) and len(tail.run) != tokens):
            return
        tokens = min(tokens, len(tail.run))
        tail.run[:tokens] = ids[match.depth : match.depth + tokens]
        node.after = {after.run[0]: after for after in node.after.values()}

    # Entries

    def _drop_prefixes(self, node: Node) -> None:
        """`pop_prefixes`."""
        while node.parent is not None and node.parent.parent is not None:
            above = node.parent
            if above.entry is not None:
                self._forget(above.entry)
                join(above)
            node = above

    def _evict(self) -> None:
        """`CacheOrder.pop`."""
        for kind, other in pairwise(_ORDER):
            if self._queues[kind] and len(self._queues[kind]) >= len(self._queues[other]):
                self._drop(next(iter(self._queues[kind])))
                return
        self._drop(next(iter(self._queues[_ORDER[-1]])))

    def _drop(self, entry: CacheEntry) -> None:
        self._forget(entry)
        _prune(entry.node)

    def _forget(self, entry: CacheEntry) -> None:
        entry.node.entry = None
        del self._queues[entry.kind][entry]
        self._bytes -= self.rules.bytes_of(entry.length)


def _tokens(entry: CacheEntry) -> Ids:
    """All tokens of an entry."""
    runs, node = [entry.node.run], entry.node.parent
    while node is not None:
        runs.append(node.run)
        node = node.parent
    tokens = array("i")
    for run in reversed(runs):
        tokens += run
    return tokens


def _prune(node: Node) -> None:
    """Remove nodes that lead to no entry, after one was taken from here."""
    while node.entry is None and not node.after and node.parent is not None:
        above = node.parent
        del above.after[node.run[0]]
        node = above
    join(node)
