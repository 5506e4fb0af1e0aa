"""The simulator against the real `LRUPromptCache`: the same entries, results, and cost of the search."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache.radix_tree import EntryKind
from proxy.cache.simulator import CacheRules, CacheSimulator
from tests.support.prompt_cache import definitions

MODEL = ("model", None, None)
KINDS: tuple[EntryKind, ...] = ("assistant", "user", "system")


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

    cost = 0

    def __add__(self, other: list[int]) -> Counted:  # type: ignore[override]
        Counted.cost += len(self) + len(other)
        return Counted(list.__add__(self, other))


LRUPromptCache: Any = definitions(counting=Counted)["LRUPromptCache"]


def ids(tokens: list[int]) -> array[int]:
    return array("i", tokens)


def assert_alike(real: Any, simulator: CacheSimulator, tokens: list[int]) -> None:
    Counted.cost = 0
    result = real._trie.search(MODEL, tokens)
    cost = Counted.cost
    found = simulator.search(ids(tokens))
    assert (result.exact is not None) == found.exact
    if not found.exact:
        assert found.shared == result.common_prefix
        assert found.shorter == len(result.shorter or ())
        assert found.longer == len(result.longer or ())
        assert found.cost == cost
    _, rest = real.fetch_nearest_cache(MODEL, tokens)
    assert simulator.cached(found) == len(tokens) - len(rest)


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
def test_random_work(rules: CacheRules, steps: list[tuple[str, list[int], EntryKind, int]]) -> None:
    real, simulator = LRUPromptCache(rules.sequences), CacheSimulator(rules)
    for what, tokens, kind, number in steps:
        if what == "insert":
            real.insert_cache(MODEL, tokens[:], [Rows(rules, len(tokens))], cache_type=kind)
            simulator.insert(ids(tokens), kind)
        elif what == "join" and rules.most_bytes is not None:
            real.trim_to(n_bytes=rules.most_bytes - number)
            simulator.joined(number)
        else:
            assert_alike(real, simulator, tokens)
        assert [(entry.kind, entry.length) for entry in simulator.entries()] == keys(real)


def test_sessions_of_agents() -> None:
    """Long runs, as sessions have: growing, forking, and unrelated, with 200 lookups between them."""
    draw = random.Random(7)
    for few in RULES[:3]:
        rules = replace(few, trimmable_below=few.trimmable_below and 700)
        real, simulator = LRUPromptCache(rules.sequences), CacheSimulator(rules)
        agent = draw.choices(range(1000), k=300)
        sessions = [agent[: draw.randint(3, 300)] for _ in range(5)]
        for _ in range(200):
            number = draw.randrange(5)
            sessions[number] = sessions[number] + draw.choices(range(1000), k=draw.randint(1, 60))
            tokens = sessions[number]
            assert_alike(real, simulator, tokens)
            assert_alike(real, simulator, [*agent[: draw.randint(1, 300)], 5, 6, 7])
            kind = draw.choice(KINDS)
            real.insert_cache(MODEL, tokens[:], [Rows(rules, len(tokens))], cache_type=kind)
            simulator.insert(ids(tokens), kind)


def test_one_long_branch_costs_the_square_of_its_length() -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids(list(range(64_000))), "assistant")
    found = simulator.search(ids([0, 1, 2, 70_000]))
    assert found.shared == 3
    assert found.cost == (64_000 - 3) * (64_000 - 2) // 2


@pytest.mark.parametrize("shortcut", [[0, 1, 2, 70_000], [*range(400), 70_000]])
def test_a_short_branch_that_came_later_ends_the_search(shortcut: list[int]) -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids(list(range(64_000))), "assistant")
    simulator.insert(ids(shortcut), "assistant")
    assert simulator.search(ids([0, 1, 2, 80_000])).cost < 100_000


def test_one_that_came_before_does_not() -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids([0, 1, 2, 70_000]), "assistant")
    simulator.insert(ids(list(range(64_000))), "assistant")
    assert simulator.search(ids([0, 1, 2, 80_000])).cost > 2 * 10**9


def test_generated_tokens_match_nothing_until_a_prompt_shows_them() -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids([1, 2, 3]), "assistant", unknown=4)
    after = ids([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert simulator.cached(simulator.search(after)) == 3
    simulator.correct(after, 6)  # the server gave back three of the four
    assert simulator.cached(simulator.search(after)) == 6
    assert simulator.search(after).longer == 7


def test_what_was_generated_is_the_beginning_of_the_next_turn() -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids([1, 2, 3]), "assistant", unknown=2)
    turn = ids([1, 2, 3, 4, 5, 6])
    simulator.correct(turn, 5)
    simulator.insert(turn, "assistant", unknown=3)
    assert [entry.length for entry in simulator.entries()] == [9]


def test_without_trimming_generated_tokens_are_known_whole_or_not_at_all() -> None:
    simulator = CacheSimulator(CacheRules(trimmable_below=0))
    simulator.insert(ids([1, 2, 3]), "assistant", unknown=2)
    turn = ids([1, 2, 3, 4, 5, 6])
    simulator.correct(turn, 4)
    assert simulator.cached(simulator.search(turn)) == 0
    simulator.correct(turn, 5)
    assert simulator.cached(simulator.search(turn)) == 5


def test_an_entry_that_gave_nothing_is_gone() -> None:
    simulator = CacheSimulator(CacheRules())
    simulator.insert(ids([1, 2, 3, 4]), "assistant")
    simulator.insert(ids([1, 2, 9]), "user")
    simulator.correct(ids([1, 2, 3, 5]), 2)
    assert [entry.length for entry in simulator.entries()] == [3]
    simulator.correct(ids([1, 2, 3, 5]), 0)
    assert len(simulator) == 0


def test_keys_that_are_known_and_that_may_be() -> None:
    simulator = CacheSimulator(CacheRules(trimmable_below=0))
    simulator.insert(ids([1, 2, 3]), "user")
    simulator.insert(ids([1, 2, 3]), "assistant", unknown=2)
    simulator.insert(ids([1, 2, 3, 4]), "assistant")
    assert simulator.exact_entry(ids([1, 2, 3]), guess=False) is not None
    assert simulator.exact_entry(ids([1, 2, 9]), guess=True) is None
    assert simulator.exact_entry(ids([1, 2, 3, 4, 5]), guess=False) is None
    guessed = simulator.exact_entry(ids([1, 2, 3, 4, 5]), guess=True)
    assert guessed is not None
    before = [entry.length for entry in simulator.entries()]
    simulator.set_tokens(guessed, ids([1, 2, 3, 4, 5]))
    assert simulator.search(ids([1, 2, 3, 4, 5])).exact
    assert simulator.exact_entry(ids([1, 2, 3, 4, 5]), guess=False) is guessed
    assert simulator.exact_entry(ids([1, 2, 3, 9, 9]), guess=True) is None, "it is settled"
    assert [entry.length for entry in simulator.entries()] == before, "and keeps its place"
    simulator.set_tokens(guessed, ids([1, 2, 3, 4, 5]))
    assert simulator.search(ids([1, 2, 3, 4])).exact


def test_two_that_turn_out_to_be_one() -> None:
    simulator = CacheSimulator(CacheRules(trimmable_below=0))
    simulator.insert(ids([1, 2]), "assistant", unknown=2)
    simulator.insert(ids([1, 2, 3, 4]), "assistant")
    guessed = next(entry for entry in simulator.entries() if min(entry.node.run) < 0)
    simulator.set_tokens(guessed, ids([1, 2, 3, 4]))
    assert [entry.length for entry in simulator.entries()] == [4]
    assert simulator.search(ids([1, 2, 3, 4])).exact


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(0, 1), min_size=1, max_size=6),
)
def test_a_key_is_what_the_server_would_take_for_one(kept: list[list[int]], prompt: list[int]) -> None:
    """Half of what was kept was generated."""
    simulator, real = CacheSimulator(CacheRules(trimmable_below=0)), LRUPromptCache(max_size=10)
    for tokens in kept:
        half = len(tokens) // 2
        simulator.insert(ids(tokens[: len(tokens) - half]), "assistant", unknown=half)
        real.insert_cache(MODEL, tokens, [Rows(CacheRules(trimmable_below=0), len(tokens))])
    exact = real._trie.search(MODEL, prompt).exact is not None
    found = simulator.exact_entry(ids(prompt), guess=True)
    assert found is not None or not exact
    if found is not None:
        simulator.set_tokens(found, ids(prompt))
        assert simulator.search(ids(prompt)).exact
        assert simulator.exact_entry(ids(prompt), guess=False) is not None
    for entry in simulator.entries():
        assert entry.node.entry is entry
