"""The mirror beside the real `LRUPromptCache`: the same entries, finds, and work of the search."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache.radix_tree import GrowthKind
from proxy.cache.simulator import CacheRules, CacheSimulator
from tests.support.prompt_cache import definitions

MODEL = ("model", None, None)
KINDS: tuple[GrowthKind, ...] = ("assistant", "user", "system")


@dataclass
class Rows:
    """Stands in for a model's caches: what LRUPromptCache asks of them."""

    rules: CacheRules
    length: int

    @property
    def nbytes(self) -> int:
        return self.rules.bytes_of(self.length)

    def is_trimmable(self) -> bool:
        return self.rules.trims(self.length)

    def trim(self, tokens: int) -> int:
        self.length -= tokens
        return tokens


class Counted(list[int]):
    """A list that counts the items which `+` copies, as the search's `extra + [tok]` does."""

    copied = 0

    def __add__(self, other: list[int]) -> Counted:  # type: ignore[override]
        Counted.copied += len(self) + len(other)
        return Counted(list.__add__(self, other))


LRUPromptCache: Any = definitions(counting=Counted)["LRUPromptCache"]


def ids(tokens: list[int]) -> array[int]:
    return array("i", tokens)


def assert_alike(real: Any, mirror: CacheSimulator, tokens: list[int]) -> None:
    Counted.copied = 0
    result = real._trie.search(MODEL, tokens)
    copied = Counted.copied
    found = mirror.search(ids(tokens))
    assert (result.exact is not None) == found.exact
    if not found.exact:
        assert found.shared == result.common_prefix
        assert found.shorter == len(result.shorter or ())
        assert found.longer == len(result.longer or ())
        assert found.copied == copied
    _, rest = real.fetch_nearest_cache(MODEL, tokens)
    assert mirror.cached(found) == len(tokens) - len(rest)


def keys(real: Any) -> list[tuple[str, int]]:
    return [(kind, len(tokens)) for kind in KINDS for _, tokens in real._lru._lrus[kind]]


RULES = [
    CacheRules(sequences=3),
    CacheRules(sequences=5, trimmable_below=0),
    CacheRules(sequences=6, trimmable_below=9),
    CacheRules(sequences=8, most_bytes=60, row_bytes=2, constant_bytes=5),
]
#: Few tokens, so that prompts share beginnings by chance.
PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=14)
STEP = st.tuples(
    st.sampled_from(["insert", "insert", "search", "join"]), PROMPT, st.sampled_from(KINDS), st.integers(0, 9)
)


@given(st.sampled_from(RULES), st.lists(STEP, max_size=40))
@settings(max_examples=150, deadline=None)
def test_random_work(rules: CacheRules, steps: list[tuple[str, list[int], GrowthKind, int]]) -> None:
    real, mirror = LRUPromptCache(rules.sequences), CacheSimulator(rules)
    for what, tokens, kind, number in steps:
        if what == "insert":
            real.insert_cache(MODEL, tokens[:], [Rows(rules, len(tokens))], cache_type=kind)
            mirror.insert(ids(tokens), kind)
        elif what == "join" and rules.most_bytes is not None:
            real.trim_to(n_bytes=rules.most_bytes - number)
            mirror.joined(number)
        else:
            assert_alike(real, mirror, tokens)
        assert [(entry.kind, entry.length) for entry in mirror.entries()] == keys(real)


def test_sessions_of_agents() -> None:
    """Long runs, as sessions have: growing, forking, and unrelated, with 200 lookups between them."""
    draw = random.Random(7)
    for few in RULES[:3]:
        rules = replace(few, trimmable_below=few.trimmable_below and 700)
        real, mirror = LRUPromptCache(rules.sequences), CacheSimulator(rules)
        agent = draw.choices(range(1000), k=300)
        sessions = [agent[: draw.randint(3, 300)] for _ in range(5)]
        for _ in range(200):
            number = draw.randrange(5)
            sessions[number] = sessions[number] + draw.choices(range(1000), k=draw.randint(1, 60))
            tokens = sessions[number]
            assert_alike(real, mirror, tokens)
            assert_alike(real, mirror, [*agent[: draw.randint(1, 300)], 5, 6, 7])
            kind = draw.choice(KINDS)
            real.insert_cache(MODEL, tokens[:], [Rows(rules, len(tokens))], cache_type=kind)
            mirror.insert(ids(tokens), kind)


def test_one_long_branch_costs_the_square_of_its_length() -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids(list(range(64_000))), "assistant")
    found = mirror.search(ids([0, 1, 2, 70_000]))
    assert found.shared == 3
    assert found.copied == (64_000 - 3) * (64_000 - 2) // 2


@pytest.mark.parametrize("cure", [[0, 1, 2, 70_000], [*range(400), 70_000]])
def test_a_short_branch_that_came_later_ends_the_search(cure: list[int]) -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids(list(range(64_000))), "assistant")
    mirror.insert(ids(cure), "assistant")
    assert mirror.search(ids([0, 1, 2, 80_000])).copied < 100_000


def test_one_that_came_before_does_not() -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids([0, 1, 2, 70_000]), "assistant")
    mirror.insert(ids(list(range(64_000))), "assistant")
    assert mirror.search(ids([0, 1, 2, 80_000])).copied > 2 * 10**9


def test_generated_tokens_match_nothing_until_a_prompt_shows_them() -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids([1, 2, 3]), "assistant", unknown=4)
    after = ids([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert mirror.cached(mirror.search(after)) == 3
    mirror.correct(after, 6)  # the server gave back three of the four
    assert mirror.cached(mirror.search(after)) == 6
    assert mirror.search(after).longer == 7


def test_what_was_generated_is_the_beginning_of_the_next_turn() -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids([1, 2, 3]), "assistant", unknown=2)
    turn = ids([1, 2, 3, 4, 5, 6])
    mirror.correct(turn, 5)
    mirror.insert(turn, "assistant", unknown=3)
    assert [entry.length for entry in mirror.entries()] == [9]


def test_without_trimming_generated_tokens_are_known_whole_or_not_at_all() -> None:
    mirror = CacheSimulator(CacheRules(trimmable_below=0))
    mirror.insert(ids([1, 2, 3]), "assistant", unknown=2)
    turn = ids([1, 2, 3, 4, 5, 6])
    mirror.correct(turn, 4)
    assert mirror.cached(mirror.search(turn)) == 0
    mirror.correct(turn, 5)
    assert mirror.cached(mirror.search(turn)) == 5


def test_an_entry_that_gave_nothing_is_gone() -> None:
    mirror = CacheSimulator(CacheRules())
    mirror.insert(ids([1, 2, 3, 4]), "assistant")
    mirror.insert(ids([1, 2, 9]), "user")
    mirror.correct(ids([1, 2, 3, 5]), 2)
    assert [entry.length for entry in mirror.entries()] == [3]
    mirror.correct(ids([1, 2, 3, 5]), 0)
    assert len(mirror) == 0


def test_keys_that_are_known_and_that_may_be() -> None:
    mirror = CacheSimulator(CacheRules(trimmable_below=0))
    mirror.insert(ids([1, 2, 3]), "user")
    mirror.insert(ids([1, 2, 3]), "assistant", unknown=2)
    mirror.insert(ids([1, 2, 3, 4]), "assistant")
    assert mirror.keyed(ids([1, 2, 3]), guess=False) is not None
    assert mirror.keyed(ids([1, 2, 9]), guess=True) is None
    assert mirror.keyed(ids([1, 2, 3, 4, 5]), guess=False) is None
    guessed = mirror.keyed(ids([1, 2, 3, 4, 5]), guess=True)
    assert guessed is not None
    before = [entry.length for entry in mirror.entries()]
    mirror.settle(guessed, ids([1, 2, 3, 4, 5]))
    assert mirror.search(ids([1, 2, 3, 4, 5])).exact
    assert mirror.keyed(ids([1, 2, 3, 4, 5]), guess=False) is guessed
    assert mirror.keyed(ids([1, 2, 3, 9, 9]), guess=True) is None, "it is settled"
    assert [entry.length for entry in mirror.entries()] == before, "and keeps its place"
    mirror.settle(guessed, ids([1, 2, 3, 4, 5]))
    assert mirror.search(ids([1, 2, 3, 4])).exact


def test_two_that_turn_out_to_be_one() -> None:
    mirror = CacheSimulator(CacheRules(trimmable_below=0))
    mirror.insert(ids([1, 2]), "assistant", unknown=2)
    mirror.insert(ids([1, 2, 3, 4]), "assistant")
    guessed = next(entry for entry in mirror.entries() if min(entry.node.run) < 0)
    mirror.settle(guessed, ids([1, 2, 3, 4]))
    assert [entry.length for entry in mirror.entries()] == [4]
    assert mirror.search(ids([1, 2, 3, 4])).exact


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(0, 1), min_size=1, max_size=6),
)
def test_a_key_is_what_the_server_would_take_for_one(kept: list[list[int]], prompt: list[int]) -> None:
    """Half of what was kept was generated."""
    mirror, real = CacheSimulator(CacheRules(trimmable_below=0)), LRUPromptCache(max_size=10)
    for tokens in kept:
        half = len(tokens) // 2
        mirror.insert(ids(tokens[: len(tokens) - half]), "assistant", unknown=half)
        real.insert_cache(MODEL, tokens, [Rows(CacheRules(trimmable_below=0), len(tokens))])
    exact = real._trie.search(MODEL, prompt).exact is not None
    found = mirror.keyed(ids(prompt), guess=True)
    assert found is not None or not exact
    if found is not None:
        mirror.settle(found, ids(prompt))
        assert mirror.search(ids(prompt)).exact
        assert mirror.keyed(ids(prompt), guess=False) is not None
    for entry in mirror.entries():
        assert entry.node.entry is entry
