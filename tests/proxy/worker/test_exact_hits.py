"""Which requests remove an exact hit, on a simulated cache with one token per character."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheRules, CacheSimulator
from proxy.worker.exact_hits import ExactHits
from proxy.worker.prompt_ids import PromptIds
from tests.proxy.worker.test_search_shortcuts import ids_of


class Characters(PromptIds):
    """Characters as tokens. `merged`: two characters that are one token; `first`: put before each text."""

    def __init__(self, merged: str = "", first: str = "") -> None:
        self.merged, self.first = merged, first

    def of(self, prompt: dict[str, Any]) -> Ids:
        text = self.first + prompt["prompt"] if "prompt" in prompt else "".join(map(chr, ids_of(prompt)))
        return array("i", map(ord, text.replace(self.merged, "&") if self.merged else text))

    def texts(self, prompt: dict[str, Any]) -> list[str]:
        text = prompt["prompt"] if "prompt" in prompt else "".join(map(chr, ids_of(prompt)))
        return [text, text[1:]]

    def ends(self) -> list[str]:
        return []


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def longer(exact_hits: ExactHits, ids: Characters, prompt: dict[str, Any]) -> str:
    way = exact_hits.wanted(prompt, ids.of(prompt))
    assert way is not None and not way.abandon and way.body["max_tokens"] == 1
    text: str = way.body["prompt"]
    return text


def sent(simulator: CacheSimulator, ids: Characters, text: str) -> None:
    simulator.insert(ids.of({"prompt": text}), "assistant", unknown=1)


@pytest.mark.parametrize(("merged", "end"), [("", "\n"), ("e\n", " ")])
def test_a_longer_entry_takes_its_place(merged: str, end: str) -> None:
    simulator, ids = CacheSimulator(CacheRules()), Characters(merged)
    exact_hits = ExactHits(simulator, ids)
    prompt = {"prompt": "hello there"}
    simulator.insert(ids.of({"prompt": "hello"}), "assistant", unknown=6)
    assert exact_hits.is_hit(prompt, ids.of(prompt))
    assert longer(exact_hits, ids, prompt) == "hello there" + end
    sent(simulator, ids, "hello there" + end)
    assert not exact_hits.is_hit(prompt, ids.of(prompt))
    assert exact_hits.wanted(prompt, ids.of(prompt)) is None


def test_a_chat_begins_with_what_encoding_puts_there() -> None:
    simulator, ids = CacheSimulator(CacheRules()), Characters(first="<")
    simulator.insert(ids.of(CHAT), "user")
    assert longer(ExactHits(simulator, ids), ids, CHAT) == "u>hi<a>\n"


def test_of_a_chat_nothing_is_guessed() -> None:
    simulator, ids = CacheSimulator(CacheRules()), Characters()
    simulator.insert(ids.of(CHAT)[:-3], "assistant", unknown=3)
    assert not ExactHits(simulator, ids).is_hit(CHAT, ids.of(CHAT))


def test_the_longer_one_is_no_key_itself() -> None:
    simulator, ids = CacheSimulator(CacheRules()), Characters()
    for text in ("hello\n", "hello"):
        simulator.insert(ids.of({"prompt": text}), "assistant")
    assert longer(ExactHits(simulator, ids), ids, {"prompt": "hello"}) == "hello "


@pytest.mark.parametrize("kind", ["assistant", "user"])
@pytest.mark.parametrize("rules", [CacheRules(trimmable_below=0), CacheRules(sequences=4, trimmable_below=7)])
def test_what_cannot_be_cut_back_is_pushed_out(rules: CacheRules, kind: Any) -> None:
    simulator, ids = CacheSimulator(rules), Characters()
    exact_hits = ExactHits(simulator, ids)
    prompt = {"prompt": "hello"}
    for text in ("one", "two", "three", "four"):
        simulator.insert(ids.of({"prompt": text}), kind)
    simulator.insert(ids.of(prompt), kind)
    texts = []
    while (way := exact_hits.wanted(prompt, ids.of(prompt))) is not None:
        texts.append(str(way.body))
        if way.abandon:
            simulator.insert(ids.of({"prompt": str(way.body)}), "user")
        else:
            sent(simulator, ids, way.body["prompt"])
    assert 0 < len(texts) <= 2 * rules.sequences
    assert len(set(texts)) == len(texts)
