"""Cures on a mirror, with one token per character in place of a tokenizer."""

from __future__ import annotations

from array import array
from typing import Any

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheRules, CacheSimulator
from proxy.worker.search_shortcuts import LABEL, SearchShortcuts

#: A search that copies more is a stall: a path of some 3,000 tokens.
MOST = 5_000_000
AGENT = {"role": "system", "content": "s" * 800}


def ids_of(prompt: dict[str, Any]) -> Ids:
    if "prompt" in prompt:
        return array("i", map(ord, prompt["prompt"]))
    if prompt["messages"][-1]["role"] == "assistant":
        raise ValueError("a template that wants a question last")
    text = "".join(f"<{message['role'][0]}>{message['content']}" for message in prompt["messages"])
    return array("i", map(ord, text + "<a>"))


def session(agent: dict[str, Any], turns: int) -> dict[str, Any]:
    messages = [agent]
    for turn in range(turns):
        messages += [
            {"role": "user", "content": f"question {turn} " * 50},
            {"role": "assistant", "content": "?"},
        ]
    return {"messages": messages[:-1]}


def ran(mirror: CacheSimulator, prompt: dict[str, Any], label: str = "") -> None:
    mirror.insert(ids_of(prompt), "assistant", unknown=1, label=label)


def search(mirror: CacheSimulator, prompt: dict[str, Any]) -> int:
    return mirror.search(ids_of(prompt)).copied


def test_one_cure_serves_new_sessions_and_strangers() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    long = session(AGENT, 15)
    sibling = {"messages": [AGENT, {"role": "user", "content": "something else"}]}
    stranger = {"messages": [{"role": "user", "content": "a title, please"}]}
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    assert search(mirror, sibling) > MOST
    assert search(mirror, stranger) > MOST
    cure = cures.wanted(MOST)
    assert cure is not None
    ran(mirror, cure, LABEL + "1")
    assert search(mirror, sibling) < MOST // 10
    assert search(mirror, stranger) < MOST // 2
    assert cures.wanted(MOST) is None


def test_a_growing_session_needs_no_second_one() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    for turns in (10, 20, 30):
        long = session(AGENT, turns)
        ran(mirror, long)
        cures.long_path(long, ids_of(long))
        cure = cures.wanted(MOST)
        assert (cure is not None) == (turns == 10)
        if cure is not None:
            ran(mirror, cure, LABEL + "1")


def test_a_cure_that_was_displaced_is_wanted_again() -> None:
    mirror = CacheSimulator(CacheRules(sequences=4))
    cures = SearchShortcuts(mirror, ids_of)
    long = session(AGENT, 15)
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    cure = cures.wanted(MOST)
    assert cure is not None
    ran(mirror, cure, LABEL + "1")
    for number in range(3):
        ran(mirror, {"prompt": f"{number} has nothing in common"})
        ran(mirror, long)  # the session goes on meanwhile
    assert cures.wanted(MOST) is not None


def test_a_cure_that_did_not_help_is_not_sent_for_ever() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    long = session(AGENT, 15)
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    wanted = [cures.wanted(MOST) for _ in range(12)]
    assert 1 <= sum(cure is not None for cure in wanted) <= 6


def test_a_place_where_a_prompt_stalled_is_learned() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    trunk = session(AGENT, 3)
    forks = [
        {"messages": [*trunk["messages"], {"role": "user", "content": text}]} for text in ("x", "y", "z")
    ]
    long = session(AGENT, 30)
    ran(mirror, long)
    found = mirror.search(ids_of(forks[0]))
    assert found.copied > MOST
    cures.stalled(forks[0], ids_of(forks[0]), found)
    cure = cures.wanted(MOST)
    assert cure is not None
    ran(mirror, cure, LABEL + "1")
    assert search(mirror, forks[1]) < MOST


def test_a_small_cache_is_not_filled_with_cures() -> None:
    mirror = CacheSimulator(CacheRules(sequences=2))
    cures = SearchShortcuts(mirror, ids_of)
    long = session(AGENT, 15)
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    assert cures.wanted(MOST) is None


def test_cures_take_a_part_of_the_cache_only() -> None:
    mirror = CacheSimulator(CacheRules(sequences=10))
    cures = SearchShortcuts(mirror, ids_of)
    for number in range(8):
        long = session({"role": "system", "content": f"{number} agents"}, 15)
        ran(mirror, long)
        cures.long_path(long, ids_of(long))
    for number in range(8):
        cure = cures.wanted(MOST)
        if cure is not None:
            ran(mirror, cure, f"{LABEL}{number}")
    assert 1 <= sum(entry.label != "" for entry in mirror.entries()) <= 3


def test_a_cure_is_small_beside_what_it_cures() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    long = session({"role": "system", "content": "s" * 6000}, 8)
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    cure = cures.wanted(MOST)
    assert cure is not None
    assert len(ids_of(cure)) < 1000
    assert search(mirror, {"messages": [{"role": "user", "content": "a title, please"}]}) > MOST


def test_text_prompts() -> None:
    mirror = CacheSimulator(CacheRules())
    cures = SearchShortcuts(mirror, ids_of)
    long = {"prompt": "".join(chr(65 + i % 60) for i in range(9000))}
    ran(mirror, long)
    cures.long_path(long, ids_of(long))
    cure = cures.wanted(MOST)
    assert cure is not None
    ran(mirror, cure, LABEL + "1")
    assert search(mirror, {"prompt": "AB" + "?" * 50}) < MOST
