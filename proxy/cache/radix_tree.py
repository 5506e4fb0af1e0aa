"""Pure. The trie of the server's prompt cache as a radix tree, with its searches and what they cost.

`PromptTrie` of mlx_lm/models/cache.py (0.32.2) has a dictionary for each token; here a run of tokens is one
node. What its search finds, in which order, and what that costs follow from the lengths of the runs.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

EntryKind = Literal["assistant", "user", "system"]
#: Token ids, of type code "i".
Ids: TypeAlias = "array[int]"


@dataclass(slots=True, eq=False)
class CacheEntry:
    """One retained sequence of `length` tokens. `label`: set by whoever inserts it, to find it again."""

    node: Node
    kind: EntryKind
    length: int
    label: str
    session: str = ""
    number: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens and the runs after it, in the order of their insertion, which the search follows."""

    run: Ids
    parent: Node | None
    after: dict[int, Node] = field(default_factory=dict)
    entry: CacheEntry | None = None


@dataclass(slots=True)
class PrefixMatch:
    """How much of a prompt the tree has: `depth` tokens, the last `inside` of them in the run of `node`.

    `passed`: the entries on the way.
    """

    node: Node
    inside: int
    depth: int
    passed: list[CacheEntry]
    exact: bool = False

    @property
    def shorter(self) -> int:
        """Length of the longest entry that the prompt begins with. The server takes none of one token
        (`last_index > 0`).
        """
        return next((entry.length for entry in reversed(self.passed) if entry.length > 1), 0)

    def ending(self) -> Node:
        """The node that ends where the match does, made by a split if needed."""
        return self.node if self.inside == len(self.node.run) else split(self.node, self.inside)


def follow(root: Node, ids: Ids) -> PrefixMatch:
    """Match a prompt with the tree."""
    match = PrefixMatch(root, 0, 0, [])
    while match.depth < len(ids) and (after := match.node.after.get(ids[match.depth])) is not None:
        match.node, match.inside = after, _common(after.run, ids, match.depth)
        match.depth += match.inside
        if match.inside < len(after.run):
            break
        if after.entry is not None:
            match.passed.append(after.entry)
    match.exact = bool(match.passed) and match.passed[-1].length == len(ids)
    return match


def add(root: Node, ids: Ids) -> Node:
    """The node at the end of `ids`, made if it is new."""
    match = follow(root, ids)
    node = match.ending()
    if match.depth == len(ids):
        return node
    leaf = node.after[ids[match.depth]] = Node(ids[match.depth :], node)
    return leaf


def split(node: Node, inside: int) -> Node:
    """Split the node's run in two; the first half keeps its position among its siblings."""
    assert node.parent is not None
    upper = Node(node.run[:inside], node.parent)
    node.parent.after[node.run[0]] = upper
    node.run, node.parent = node.run[inside:], upper
    upper.after[node.run[0]] = node
    return upper


def join(node: Node) -> None:
    """Join a node that is neither an end nor a fork with the one after it."""
    if node.entry is not None or node.parent is None or len(node.after) != 1:
        return
    (below,) = node.after.values()
    below.run, below.parent = node.run + below.run, node.parent
    node.parent.after[below.run[0]] = below


def descend(start: Node, inside: int) -> tuple[CacheEntry, int, int]:
    """Find the nearest entry below a position in the server's own order of search, the latest branch first.

    Also its distance in tokens, and the cost of finding it: the list items that the server copies.
    """
    best: CacheEntry | None = None
    nearest, cost = _FAR, 0
    stack = [(start, 0, len(start.run) - inside)]
    while stack:
        node, depth, left = stack.pop()
        end = min(depth + left, max(nearest, depth))
        cost += _sum(end) - _sum(depth)
        if end < depth + left or end >= nearest:
            continue
        if node.entry is not None:
            best, nearest = node.entry, end
            continue
        cost += (end + 1) * len(node.after)
        stack += [(after, end + 1, len(after.run) - 1) for after in node.after.values()]
    assert best is not None, "every path ends in an entry"
    return best, nearest, cost


def _sum(depth: int) -> int:
    """1 + 2 + ... + depth."""
    return depth * (depth + 1) // 2


def _common(run: Ids, ids: Ids, start: int) -> int:
    """How many tokens `run` shares with `ids` from `start` on. Compares whole stretches, as memory."""
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


#: A distance beyond any entry.
_FAR = 2**62
