"""Search shortcuts on a simulator, with one token per character in place of a tokenizer."""

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


def ran(simulator: CacheSimulator, prompt: dict[str, Any], label: str = "") -> None:
    simulator.insert(ids_of(prompt), "assistant", unknown=1, label=label)


def search(simulator: CacheSimulator, prompt: dict[str, Any]) -> int:
    return simulator.search(ids_of(prompt)).cost


def test_one_shortcut_serves_new_sessions_and_strangers() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = session(AGENT, 15)
    sibling = {"messages": [AGENT, {"role": "user", "content": "something else"}]}
    stranger = {"messages": [{"role": "user", "content": "a title, please"}]}
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    assert search(simulator, sibling) > MOST
    assert search(simulator, stranger) > MOST
    shortcut = shortcuts.wanted(MOST)
    assert shortcut is not None
    ran(simulator, shortcut, LABEL + "1")
    assert search(simulator, sibling) < MOST // 10
    assert search(simulator, stranger) < MOST // 2
    assert shortcuts.wanted(MOST) is None


def test_a_growing_session_needs_no_second_one() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    for turns in (10, 20, 30):
        long = session(AGENT, turns)
        ran(simulator, long)
        shortcuts.note_long_prompt(long, ids_of(long))
        shortcut = shortcuts.wanted(MOST)
        assert (shortcut is not None) == (turns == 10)
        if shortcut is not None:
            ran(simulator, shortcut, LABEL + "1")


def test_a_shortcut_that_was_evicted_is_wanted_again() -> None:
    simulator = CacheSimulator(CacheRules(sequences=4))
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = session(AGENT, 15)
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    shortcut = shortcuts.wanted(MOST)
    assert shortcut is not None
    ran(simulator, shortcut, LABEL + "1")
    for number in range(3):
        ran(simulator, {"prompt": f"{number} has nothing in common"})
        ran(simulator, long)  # the session goes on meanwhile
    assert shortcuts.wanted(MOST) is not None


def test_a_shortcut_that_did_not_help_is_not_sent_for_ever() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = session(AGENT, 15)
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    wanted = [shortcuts.wanted(MOST) for _ in range(12)]
    assert 1 <= sum(shortcut is not None for shortcut in wanted) <= 6


def test_a_position_where_a_prompt_stalled_is_learned() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    trunk = session(AGENT, 3)
    forks = [
        {"messages": [*trunk["messages"], {"role": "user", "content": text}]} for text in ("x", "y", "z")
    ]
    long = session(AGENT, 30)
    ran(simulator, long)
    found = simulator.search(ids_of(forks[0]))
    assert found.cost > MOST
    shortcuts.note_stall(forks[0], ids_of(forks[0]), found)
    shortcut = shortcuts.wanted(MOST)
    assert shortcut is not None
    ran(simulator, shortcut, LABEL + "1")
    assert search(simulator, forks[1]) < MOST


def test_a_small_cache_is_not_filled_with_shortcuts() -> None:
    simulator = CacheSimulator(CacheRules(sequences=2))
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = session(AGENT, 15)
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    assert shortcuts.wanted(MOST) is None


def test_shortcuts_take_a_part_of_the_cache_only() -> None:
    simulator = CacheSimulator(CacheRules(sequences=10))
    shortcuts = SearchShortcuts(simulator, ids_of)
    for number in range(8):
        long = session({"role": "system", "content": f"{number} agents"}, 15)
        ran(simulator, long)
        shortcuts.note_long_prompt(long, ids_of(long))
    for number in range(8):
        shortcut = shortcuts.wanted(MOST)
        if shortcut is not None:
            ran(simulator, shortcut, f"{LABEL}{number}")
    assert 1 <= sum(entry.label != "" for entry in simulator.entries()) <= 3


def test_a_shortcut_is_small_beside_what_it_shortcuts() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = session({"role": "system", "content": "s" * 6000}, 8)
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    shortcut = shortcuts.wanted(MOST)
    assert shortcut is not None
    assert len(ids_of(shortcut)) < 1000
    assert search(simulator, {"messages": [{"role": "user", "content": "a title, please"}]}) > MOST


def test_text_prompts() -> None:
    simulator = CacheSimulator(CacheRules())
    shortcuts = SearchShortcuts(simulator, ids_of)
    long = {"prompt": "".join(chr(65 + i % 60) for i in range(9000))}
    ran(simulator, long)
    shortcuts.note_long_prompt(long, ids_of(long))
    shortcut = shortcuts.wanted(MOST)
    assert shortcut is not None
    ran(simulator, shortcut, LABEL + "1")
    assert search(simulator, {"prompt": "AB" + "?" * 50}) < MOST
