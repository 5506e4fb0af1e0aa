"""A mirror of the server's prompt cache, made from the token ids that the proxy has seen. Pure.

It follows `LRUPromptCache` and `PromptTrie` of mlx_lm/models/cache.py (0.32.2) entry by entry, so it says
what a prompt will be given from the cache, and how long the server will search for it. The search is what
stalls a server: where a prompt leaves the known paths, every path below is followed to its nearest end, and
each step copies the list of steps so far (`extra + [tok]`), which is quadratic in the distance.
`SearchResult.copied` counts the items of those lists; seconds per item are the machine's (core/stalls.py).

Two things differ from the server's own: runs of tokens are one node here, and generated tokens, whose ids
nobody tells, stand as negative numbers, which no prompt contains, until a later prompt shows what they were.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from proxy.cache.radix_tree import CacheEntry, GrowthKind, Ids, Node, add, descend, follow, join

#: In this order they give way, the first while there are at least as many of it as of the next.
_ORDER: tuple[GrowthKind, ...] = ("assistant", "user", "system")


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How the child's cache was set up.

    Attributes:
        sequences, most_bytes: --prompt-cache-size and --prompt-cache-bytes; None: no limit. The server holds
            the second only when a request joins its batch.
        trimmable_below: a cache of fewer tokens can be cut back; 0 with linear attention, None always. With
            sliding windows it is the smallest window.
        row_bytes, constant_bytes: what a kept sequence counts for, per token and once.
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
        shared: where the prompt leaves the known paths; all of it if it does not.
        exact: the whole prompt is an entry.
        shorter: tokens of the longest entry that the prompt begins with; 0 if there is none.
        longer: tokens of the nearest entry below the place where it leaves; 0 if there is none.
        copied: items of lists that the search copies: `distance**2 / 2` for one path of that length.
    """

    length: int
    shared: int
    exact: bool
    shorter: int
    longer: int
    copied: int


class CacheSimulator:
    """One generation's prompt cache."""

    def __init__(self, rules: CacheRules) -> None:
        self.rules = rules
        self._root = Node(array("i"), None)
        self._queues: dict[GrowthKind, dict[CacheEntry, None]] = {kind: {} for kind in _ORDER}
        self._bytes = 0
        self._unknown = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def entries(self) -> Iterator[CacheEntry]:
        """All that is kept, the first to give way first within each kind."""
        for queue in self._queues.values():
            yield from queue

    def search(self, ids: Ids) -> SearchResult:
        """`PromptTrie.search`: the same result, and what it costs."""
        path = follow(self._root, ids)
        if path.exact or not path.depth:
            return SearchResult(len(ids), path.depth, path.exact, 0, 0, 0)
        below = descend(path.node, path.inside)
        return SearchResult(
            len(ids), path.depth, False, path.shorter, path.depth + below.distance, below.copied
        )

    def cached(self, found: SearchResult) -> int:
        """Tokens of the prompt that the server takes from its cache (`fetch_nearest_cache`)."""
        if found.exact:
            return found.length
        if found.shared > found.shorter and found.longer and self.rules.trims(found.longer):
            return min(found.length - 1, found.shared)
        return found.shorter

    def insert(self, ids: Ids, kind: GrowthKind, *, unknown: int = 0, label: str = "") -> None:
        """`insert_cache`: `ids`, and then `unknown` generated tokens."""
        if unknown:
            self._unknown += 1
            ids = ids + array("i", [-self._unknown]) * unknown
        node = add(self._root, ids)
        if node.entry is not None:
            self._forget(node.entry)
        node.entry = CacheEntry(node, kind, len(ids), label)
        self._queues[kind][node.entry] = None
        self._bytes += self.rules.bytes_of(len(ids))
        if self.rules.trims(len(ids)):
            self._drop_beginnings(node)
        if len(self) > self.rules.sequences:
            self._evict()

    def joined(self, active_bytes: int) -> None:
        """`trim_to`, when a request joins the batch: what runs takes its room from what is kept."""
        if self.rules.most_bytes is None:
            return
        while len(self) and self._bytes > max(0, self.rules.most_bytes - active_bytes):
            self._evict()

    def correct(self, ids: Ids, cached: int) -> None:
        """The server gave `cached` tokens of this prompt: entries are gone, or generated tokens known now."""
        while (expected := self.cached(self.search(ids))) > cached:
            self._drop(self._giver(ids))
        if expected < cached:
            self._reveal(ids, cached)

    def keyed(self, ids: Ids, *, guess: bool) -> CacheEntry | None:
        """The entry of just these tokens; `guess`: or one that may be, its generated ones being unknown."""
        for entry in self.entries():
            if entry.length == len(ids):
                known = entry.length - sum(token < 0 for token in entry.node.run)
                if (known == len(ids) or guess) and _key(entry)[:known] == ids[:known]:
                    return entry
        return None

    def settle(self, entry: CacheEntry, ids: Ids) -> None:
        """Its tokens are taken to be these."""
        node, known = entry.node, add(self._root, ids)
        if known is node:
            return
        if known.entry is not None:
            self._drop(entry)
            return
        node.entry, known.entry, entry.node = None, entry, known
        _prune(node)

    # Paths

    def _giver(self, ids: Ids) -> CacheEntry:
        """The entry that the prompt would be served from."""
        path = follow(self._root, ids)
        if path.exact:
            return path.passed[-1]
        below = descend(path.node, path.inside).entry
        if path.depth > path.shorter and self.rules.trims(below.length):
            return below
        return next(entry for entry in reversed(path.passed) if entry.length == path.shorter)

    def _reveal(self, ids: Ids, cached: int) -> None:
        """Generated tokens from where the prompt leaves were those that the prompt has there."""
        path = follow(self._root, ids)
        if path.inside < len(path.node.run) and path.node.run[path.inside] >= 0:
            return
        node, tokens = path.ending(), cached - path.depth
        tail = next((node.after[token] for token in reversed(node.after) if token < 0), None)
        if tail is None or (not self.rules.trims(cached) and len(tail.run) != tokens):
            return
        tokens = min(tokens, len(tail.run))
        tail.run[:tokens] = ids[path.depth : path.depth + tokens]
        node.after = {after.run[0]: after for after in node.after.values()}

    # Entries

    def _drop_beginnings(self, node: Node) -> None:
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


def _key(entry: CacheEntry) -> Ids:
    """All of its tokens."""
    runs, node = [entry.node.run], entry.node.parent
    while node is not None:
        runs.append(node.run)
        node = node.parent
    key = array("i")
    for run in reversed(runs):
        key += run
    return key


def _prune(node: Node) -> None:
    """Nothing ends here any more: take away what leads nowhere."""
    while node.entry is None and not node.after and node.parent is not None:
        above = node.parent
        del above.after[node.run[0]]
        node = above
    join(node)
