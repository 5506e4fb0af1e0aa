"""Paths of token ids, and the walks along them: the trie of the server's prompt cache, compressed. Pure.

`PromptTrie` of mlx_lm/models/cache.py (0.32.2) has a dictionary for each token; here a run of tokens is one
node. What its search finds, in which order, and what that costs follow from the runs' lengths.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

GrowthKind = Literal["assistant", "user", "system"]
#: Token ids, of type code "i".
Ids: TypeAlias = "array[int]"


@dataclass(slots=True, eq=False)
class CacheEntry:
    """One kept sequence. `label`: whose it is, for the owner of the mirror."""

    node: Node
    kind: GrowthKind
    length: int
    label: str


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens, and what comes after it, in the order in which it came: the search goes by that."""

    run: Ids
    parent: Node | None
    after: dict[int, Node] = field(default_factory=dict)
    entry: CacheEntry | None = None


@dataclass(slots=True)
class PrefixMatch:
    """How far a prompt follows the paths: `inside` tokens into the run of `node`; entries `passed`."""

    node: Node
    inside: int
    depth: int
    passed: list[CacheEntry]
    exact: bool = False

    @property
    def shorter(self) -> int:
        """The server takes no beginning of one token (`last_index > 0`)."""
        return next((entry.length for entry in reversed(self.passed) if entry.length > 1), 0)

    def ending(self) -> Node:
        """A node that ends where the path does."""
        return self.node if self.inside == len(self.node.run) else split(self.node, self.inside)


@dataclass(frozen=True, slots=True)
class NearestEntry:
    """The nearest entry below a place, its distance, and what finding it costs."""

    entry: CacheEntry
    distance: int
    copied: int


def follow(root: Node, ids: Ids) -> PrefixMatch:
    """As far as the paths go."""
    path = PrefixMatch(root, 0, 0, [])
    while path.depth < len(ids) and (after := path.node.after.get(ids[path.depth])) is not None:
        path.node, path.inside = after, _common(after.run, ids, path.depth)
        path.depth += path.inside
        if path.inside < len(after.run):
            break
        if after.entry is not None:
            path.passed.append(after.entry)
    path.exact = bool(path.passed) and path.passed[-1].length == len(ids)
    return path


def add(root: Node, ids: Ids) -> Node:
    """The node at the end of `ids`, made if it is new."""
    path = follow(root, ids)
    node = path.ending()
    if path.depth == len(ids):
        return node
    leaf = node.after[ids[path.depth]] = Node(ids[path.depth :], node)
    return leaf


def split(node: Node, inside: int) -> Node:
    """The node's run in two; the first half keeps its place among its siblings."""
    assert node.parent is not None
    upper = Node(node.run[:inside], node.parent)
    node.parent.after[node.run[0]] = upper
    node.run, node.parent = node.run[inside:], upper
    upper.after[node.run[0]] = node
    return upper


def join(node: Node) -> None:
    """A node that is neither an end nor a fork becomes part of the one after it."""
    if node.entry is not None or node.parent is None or len(node.after) != 1:
        return
    (below,) = node.after.values()
    below.run, below.parent = node.run + below.run, node.parent
    node.parent.after[below.run[0]] = below


def descend(start: Node, inside: int) -> NearestEntry:
    """The nearest end below a place, in the server's own order of search: what came last goes first."""
    best: CacheEntry | None = None
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
    return NearestEntry(best, nearest, copied)


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
