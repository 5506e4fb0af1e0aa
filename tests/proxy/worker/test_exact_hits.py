"""Which requests take a key away, on a mirror, with one token per character in place of a tokenizer."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from proxy.cache.radix_tree import Ids
from proxy.cache.simulator import CacheRules, CacheSimulator
from proxy.worker.exact_hits import ExactHits
from tests.proxy.worker.test_search_shortcuts import ids_of


class Characters:
    """Stands in for ChildIds. `merged`: two characters that are one token; `first`: put before each text."""

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


def longer(evasions: ExactHits, ids: Characters, prompt: dict[str, Any]) -> str:
    way = evasions.wanted(prompt, ids.of(prompt))
    assert way is not None and not way.abandon and way.body["max_tokens"] == 1
    text: str = way.body["prompt"]
    return text


def sent(mirror: CacheSimulator, ids: Characters, text: str) -> None:
    mirror.insert(ids.of({"prompt": text}), "assistant", unknown=1)


@pytest.mark.parametrize(("merged", "end"), [("", "\n"), ("e\n", " ")])
def test_a_longer_entry_takes_its_place(merged: str, end: str) -> None:
    mirror, ids = CacheSimulator(CacheRules()), Characters(merged)
    evasions = ExactHits(mirror, ids)
    prompt = {"prompt": "hello there"}
    mirror.insert(ids.of({"prompt": "hello"}), "assistant", unknown=6)
    assert evasions.is_key(prompt, ids.of(prompt))
    assert longer(evasions, ids, prompt) == "hello there" + end
    sent(mirror, ids, "hello there" + end)
    assert not evasions.is_key(prompt, ids.of(prompt))
    assert evasions.wanted(prompt, ids.of(prompt)) is None


def test_a_chat_begins_with_what_encoding_puts_there() -> None:
    mirror, ids = CacheSimulator(CacheRules()), Characters(first="<")
    mirror.insert(ids.of(CHAT), "user")
    assert longer(ExactHits(mirror, ids), ids, CHAT) == "u>hi<a>\n"


def test_of_a_chat_nothing_is_guessed() -> None:
    mirror, ids = CacheSimulator(CacheRules()), Characters()
    mirror.insert(ids.of(CHAT)[:-3], "assistant", unknown=3)
    assert not ExactHits(mirror, ids).is_key(CHAT, ids.of(CHAT))


def test_the_longer_one_is_no_key_itself() -> None:
    mirror, ids = CacheSimulator(CacheRules()), Characters()
    for text in ("hello\n", "hello"):
        mirror.insert(ids.of({"prompt": text}), "assistant")
    assert longer(ExactHits(mirror, ids), ids, {"prompt": "hello"}) == "hello "


@pytest.mark.parametrize("kind", ["assistant", "user"])
@pytest.mark.parametrize("rules", [CacheRules(trimmable_below=0), CacheRules(sequences=4, trimmable_below=7)])
def test_what_cannot_be_cut_back_is_pushed_out(rules: CacheRules, kind: Any) -> None:
    mirror, ids = CacheSimulator(rules), Characters()
    evasions = ExactHits(mirror, ids)
    prompt = {"prompt": "hello"}
    for text in ("one", "two", "three", "four"):
        mirror.insert(ids.of({"prompt": text}), kind)
    mirror.insert(ids.of(prompt), kind)
    texts = []
    while (way := evasions.wanted(prompt, ids.of(prompt))) is not None:
        texts.append(str(way.body))
        if way.abandon:
            mirror.insert(ids.of({"prompt": str(way.body)}), "user")
        else:
            sent(mirror, ids, way.body["prompt"])
    assert 0 < len(texts) <= 2 * rules.sequences
    assert len(set(texts)) == len(texts)
