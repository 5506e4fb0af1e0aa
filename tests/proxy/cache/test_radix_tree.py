"""Runs of tokens as nodes: splitting, joining and the order of the search; else see test_simulator.py."""

from __future__ import annotations

from array import array

from proxy.cache.radix_tree import CacheEntry, Ids, Node, add, descend, follow, join


def ids(*tokens: int) -> Ids:
    return array("i", tokens)


def entry(root: Node, *tokens: int) -> CacheEntry:
    node = add(root, ids(*tokens))
    node.entry = CacheEntry(node, "assistant", len(tokens), "")
    return node.entry


def test_a_path_is_followed_into_a_run() -> None:
    root = Node(ids(), None)
    entry(root, 1, 2, 3, 4, 5)
    path = follow(root, ids(1, 2, 3, 9))
    assert (path.depth, path.inside, path.passed, path.exact) == (3, 3, [], False)
    assert follow(root, ids(1, 2, 3, 4, 5)).exact
    assert follow(root, ids(9)).depth == 0


def test_a_fork_splits_a_run_in_its_place_and_joining_mends_it() -> None:
    root = Node(ids(), None)
    first, _ = entry(root, 1, 2, 3, 4), entry(root, 7)
    second = entry(root, 1, 2, 8)
    assert list(root.after) == [1, 7]
    fork = root.after[1]
    assert (fork.run, list(fork.after)) == (ids(1, 2), [3, 8])
    second.node.entry = None
    del fork.after[8]
    join(fork)
    assert root.after[1] is first.node
    assert first.node.run == ids(1, 2, 3, 4)


def test_what_came_last_is_searched_first() -> None:
    root = Node(ids(), None)
    entry(root, 1, *range(10, 1000))
    short = entry(root, 1, 2, 3)
    nearest, distance, cost = descend(*_at(root, 1))
    assert (nearest, distance) == (short, 2)
    # Two children of the fork, one step of each: the long one is given up at the distance of the short one.
    assert cost == 2 * 1 + 2 + 2


def test_a_shorter_prefix_of_one_token_is_none() -> None:
    root = Node(ids(), None)
    entry(root, 1)
    assert follow(root, ids(1, 2)).shorter == 0
    entry(root, 1, 2)
    assert follow(root, ids(1, 2, 3)).shorter == 2


def _at(root: Node, *tokens: int) -> tuple[Node, int]:
    path = follow(root, ids(*tokens))
    return path.node, path.inside
