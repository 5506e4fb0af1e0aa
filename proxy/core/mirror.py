"""A mirror of the server's prompt cache, made from the token ids that the proxy has seen. Pure.

It follows `LRUPromptCache` and `PromptTrie` of mlx_lm/models/cache.py (0.32.2) entry by entry, so it says
what a prompt will be given from the cache, and how long the server will search for it. The search is what
stalls a server: where a prompt leaves the known paths, every path below is followed to its nearest end, and
each step copies the list of steps so far (`extra + [tok]`), which is quadratic in the distance.
`Found.copied` counts the items of those lists; seconds per item are the machine's (core/stalls.py).

Two things differ from the server's own: runs of tokens are one node here, and generated tokens, whose ids
nobody tells, stand as negative numbers, which no prompt contains, until a later prompt shows what they were.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

Kind = Literal["assistant", "user", "system"]
#: Token ids, of type code "i".
Ids: TypeAlias = "array[int]"

#: In this order they give way, the first while there are at least as many of it as of the next.
_ORDER: tuple[Kind, ...] = ("assistant", "user", "system")


@dataclass(frozen=True, slots=True)
class Rules:
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
class Found:
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


@dataclass(slots=True, eq=False)
class Entry:
    """One kept sequence. `label`: whose it is, for the owner of the mirror."""

    node: _Node
    kind: Kind
    length: int
    label: str


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens, and what comes after it, in the order in which it came: the search goes by that."""

    run: Ids
    parent: _Node | None
    after: dict[int, _Node] = field(default_factory=dict)
    entry: Entry | None = None


@dataclass(slots=True)
class _Path:
    """How far a prompt follows the paths: `inside` tokens into the run of `node`; entries `passed`."""

    node: _Node
    inside: int
    depth: int
    passed: list[Entry]
    exact: bool = False

    @property
    def shorter(self) -> int:
        """The server takes no beginning of one token (`last_index > 0`)."""
        return next((entry.length for entry in reversed(self.passed) if entry.length > 1), 0)

    def ending(self) -> _Node:
        """A node that ends where the path does."""
        return self.node if self.inside == len(self.node.run) else _split(self.node, self.inside)


@dataclass(frozen=True, slots=True)
class _Below:
    """The nearest entry below a place, its distance, and what finding it costs."""

    entry: Entry
    distance: int
    copied: int


class Mirror:
    """One generation's prompt cache."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._root = _Node(array("i"), None)
        self._queues: dict[Kind, dict[Entry, None]] = {kind: {} for kind in _ORDER}
        self._bytes = 0
        self._unknown = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def entries(self) -> Iterator[Entry]:
        """All that is kept, the first to give way first within each kind."""
        for queue in self._queues.values():
            yield from queue

    def search(self, ids: Ids) -> Found:
        """`PromptTrie.search`: the same result, and what it costs."""
        path = self._follow(ids)
        if path.exact or not path.depth:
            return Found(len(ids), path.depth, path.exact, 0, 0, 0)
        below = _descend(path.node, path.inside)
        return Found(len(ids), path.depth, False, path.shorter, path.depth + below.distance, below.copied)

    def cached(self, found: Found) -> int:
        """Tokens of the prompt that the server takes from its cache (`fetch_nearest_cache`)."""
        if found.exact:
            return found.length
        if found.shared > found.shorter and found.longer and self.rules.trims(found.longer):
            return min(found.length - 1, found.shared)
        return found.shorter

    def insert(self, ids: Ids, kind: Kind, *, unknown: int = 0, label: str = "") -> None:
        """`insert_cache`: `ids`, and then `unknown` generated tokens."""
        if unknown:
            self._unknown += 1
            ids = ids + array("i", [-self._unknown]) * unknown
        node = self._add(ids)
        if node.entry is not None:
            self._forget(node.entry)
        node.entry = Entry(node, kind, len(ids), label)
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

    # Paths

    def _follow(self, ids: Ids) -> _Path:
        path = _Path(self._root, 0, 0, [])
        while path.depth < len(ids) and (after := path.node.after.get(ids[path.depth])) is not None:
            path.node, path.inside = after, _common(after.run, ids, path.depth)
            path.depth += path.inside
            if path.inside < len(after.run):
                break
            if after.entry is not None:
                path.passed.append(after.entry)
        path.exact = bool(path.passed) and path.passed[-1].length == len(ids)
        return path

    def _add(self, ids: Ids) -> _Node:
        path = self._follow(ids)
        node = path.ending()
        if path.depth == len(ids):
            return node
        leaf = node.after[ids[path.depth]] = _Node(ids[path.depth :], node)
        return leaf

    def _giver(self, ids: Ids) -> Entry:
        """The entry that the prompt would be served from."""
        path = self._follow(ids)
        if path.exact:
            return path.passed[-1]
        below = _descend(path.node, path.inside).entry
        if path.depth > path.shorter and self.rules.trims(below.length):
            return below
        return next(entry for entry in reversed(path.passed) if entry.length == path.shorter)

    def _reveal(self, ids: Ids, cached: int) -> None:
        """Generated tokens from where the prompt leaves were those that the prompt has there."""
        path = self._follow(ids)
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

    def _drop_beginnings(self, node: _Node) -> None:
        """`pop_prefixes`."""
        while node.parent is not None and node.parent.parent is not None:
            above = node.parent
            if above.entry is not None:
                self._forget(above.entry)
                _join(above)
            node = above

    def _evict(self) -> None:
        """`CacheOrder.pop`."""
        for kind, other in pairwise(_ORDER):
            if self._queues[kind] and len(self._queues[kind]) >= len(self._queues[other]):
                self._drop(next(iter(self._queues[kind])))
                return
        self._drop(next(iter(self._queues[_ORDER[-1]])))

    def _drop(self, entry: Entry) -> None:
        self._forget(entry)
        node = entry.node
        while node.entry is None and not node.after and node.parent is not None:
            above = node.parent
            del above.after[node.run[0]]
            node = above
        _join(node)

    def _forget(self, entry: Entry) -> None:
        entry.node.entry = None
        del self._queues[entry.kind][entry]
        self._bytes -= self.rules.bytes_of(entry.length)


def _split(node: _Node, inside: int) -> _Node:
    """The node's run in two; the first half keeps its place among its siblings."""
    assert node.parent is not None
    upper = _Node(node.run[:inside], node.parent)
    node.parent.after[node.run[0]] = upper
    node.run, node.parent = node.run[inside:], upper
    upper.after[node.run[0]] = node
    return upper


def _join(node: _Node) -> None:
    """A node that is neither an end nor a fork becomes part of the one after it."""
    if node.entry is not None or node.parent is None or len(node.after) != 1:
        return
    (below,) = node.after.values()
    below.run, below.parent = node.run + below.run, node.parent
    node.parent.after[below.run[0]] = below


def _descend(start: _Node, inside: int) -> _Below:
    """The nearest end below a place, in the server's own order of search: what came last goes first."""
    best: Entry | None = None
    nearest, copied = _FAR, 0
    stack = [(start, 0, len(start.run) - inside)]
    while stack:
        node, depth, left = stack.pop()
        end = min(depth + left, max(nearest, depth))
        copied += _sum(end) - _sum(depth)
        if end < depth + left or end >= nearest:
            continue
        if node.entry is not None:
            best, nearest = node.entry, end
            continue
        copied += (end + 1) * len(node.after)
        stack += [(after, end + 1, len(after.run) - 1) for after in node.after.values()]
    assert best is not None, "every path ends in an entry"
    return _Below(best, nearest, copied)


def _sum(depth: int) -> int:
    """1 + 2 + ... + depth."""
    return depth * (depth + 1) // 2


def _common(run: Ids, ids: Ids, start: int) -> int:
    """How many tokens of `run` stand in `ids` from `start` on. Compares whole stretches, as memory."""
    low, high = 0, min(len(run), len(ids) - start)
    if run[:high] == ids[start : start + high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if run[low:middle] == ids[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low


#: Farther than any entry.
_FAR = 2**62
