"""Following requests through the worker's own code, with one token per character in place of a tokenizer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from proxy.cache.radix_tree import Ids
from proxy.worker.cache_predictor import CachePredictor
from proxy.worker.prompt_ids import PromptIds, SegmentEnd
from tests.proxy.cache.test_client import told
from tests.proxy.worker.test_search_shortcuts import AGENT, MOST, ids_of, session


class Characters:
    """Stands in for ChildIds."""

    def of(self, prompt: dict[str, Any]) -> Ids:
        return ids_of(prompt)

    def cuts(self, prompt: dict[str, Any], ids: Ids) -> list[SegmentEnd]:
        del prompt
        return [SegmentEnd(len(ids), "assistant")]

    def texts(self, prompt: dict[str, Any]) -> list[str]:
        return [prompt["prompt"]]

    def ends(self) -> list[str]:
        return []


@pytest.fixture
def foresight() -> CachePredictor:
    made = CachePredictor(cast("PromptIds", Characters()))
    made.reset({"sequences": 10}, MOST)
    return made


def text(characters: str) -> dict[str, Any]:
    return {"prompt": characters}


def ask(foresight: CachePredictor, do: str, id: str, **fields: Any) -> Any:
    return foresight.answer({"op": "foresight", "do": do, "of": id, **fields})


def run(foresight: CachePredictor, id: str, prompt: dict[str, Any], *, generated: int = 3) -> Any:
    ask(foresight, "foresee", id, prompt=prompt, batched=True)
    told = ask(foresight, "asked", id)
    ask(foresight, "read", id, cached=told["cached"])
    ask(foresight, "ended", id, generated=generated, cached=told["cached"], complete=True)
    return told


def test_nothing_is_foreseen_before_a_child_is_known() -> None:
    unknown = CachePredictor(cast("PromptIds", Characters()))
    assert ask(unknown, "foresee", "a", prompt=text("abc"), batched=True) is None
    assert ask(unknown, "asked", "a") is None
    assert ask(unknown, "read", "a", cached=None) is None
    assert ask(unknown, "ended", "a", generated=0, cached=None, complete=False) is None
    assert ask(unknown, "cure", "") is None


def test_the_next_turn_is_given_the_prompt_before(foresight: CachePredictor) -> None:
    assert run(foresight, "a", text("hello"))["cached"] == 0
    assert run(foresight, "b", text("hello there"))["cached"] == 5


def test_what_is_being_read_is_not_there_yet(foresight: CachePredictor) -> None:
    ask(foresight, "foresee", "a", prompt=text("hello"), batched=True)
    ask(foresight, "asked", "a")
    assert ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)["cached"] == 0
    ask(foresight, "read", "a", cached=0)
    assert ask(foresight, "asked", "b")["cached"] == 4  # the last token was not read by itself yet


def test_what_was_cut_short_keeps_what_it_had_read(foresight: CachePredictor) -> None:
    for id, read in (("x", False), ("y", True)):
        ask(foresight, "foresee", id, prompt=text(f"{id}bcdef"), batched=True)
        ask(foresight, "asked", id)
        if read:
            ask(foresight, "read", id, cached=0)
        ask(foresight, "ended", id, generated=2, cached=None, complete=False)
    assert ask(foresight, "foresee", "c", prompt=text("xbcdefg"), batched=True)["cached"] == 0
    assert ask(foresight, "foresee", "d", prompt=text("ybcdefg"), batched=True)["cached"] == 5


def test_what_the_server_does_not_run_in_its_batch_is_kept_at_its_end_only(foresight: CachePredictor) -> None:
    ask(foresight, "foresee", "a", prompt=text("hello"), batched=False)
    ask(foresight, "asked", "a")
    ask(foresight, "read", "a", cached=0)
    assert ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)["cached"] == 0
    ask(foresight, "ended", "a", generated=1, cached=0, complete=True)
    assert ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)["cached"] == 5


def test_a_new_child_knows_nothing_but_what_waits_is_still_followed(foresight: CachePredictor) -> None:
    run(foresight, "a", text("hello"))
    ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)
    foresight.reset({"sequences": 10}, MOST)
    assert ask(foresight, "asked", "b") == told(tokens=11, longest=2, leaves=[10])


def test_a_long_session_is_cured_once(foresight: CachePredictor) -> None:
    run(foresight, "a", session(AGENT, 15))
    sibling = {"messages": [AGENT, {"role": "user", "content": "something else"}]}
    assert ask(foresight, "foresee", "b", prompt=sibling, batched=True)["copied"] > MOST
    cure = ask(foresight, "cure", "")
    ask(foresight, "ended", cure["id"], generated=1, cached=None, complete=True)
    assert ask(foresight, "foresee", "b", prompt=sibling, batched=True)["copied"] < MOST
    assert ask(foresight, "cure", "") is None


def test_arguments_of_tool_calls_are_sent_as_text(foresight: CachePredictor) -> None:
    """Rendering parses them in place, as the server does; it would not take them parsed."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    trunk = [
        AGENT,
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "w" * 100},
    ]
    run(foresight, "a", {"messages": [*trunk, {"role": "user", "content": "x" * 9000}]})
    run(foresight, "b", {"messages": [*trunk, {"role": "user", "content": "y" * 9000}]})
    cure = ask(foresight, "cure", "")
    [arguments] = [
        call["function"]["arguments"]
        for message in cure["prompt"]["messages"]
        for call in message.get("tool_calls", ())
    ]
    assert arguments == '{"a": 1}'
    assert call["function"] == {"name": "f", "arguments": {"a": 1}}


def test_a_prompt_that_may_be_a_key_is_evaded_before_it_is_asked(foresight: CachePredictor) -> None:
    run(foresight, "a", text("hello"), generated=6)
    told = ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)
    assert told["key"] and ask(foresight, "asked", "b")["key"]
    assert not foresight._followed["b"].asked, "not yet"
    way = ask(foresight, "evade", "b")
    assert way["body"] == {"prompt": "hello there\n", "max_tokens": 1, "temperature": 0}
    run(foresight, "longer", {"prompt": way["body"]["prompt"]}, generated=1)
    assert ask(foresight, "evade", "b") is None
    asked = ask(foresight, "asked", "b", anyway=True)
    assert (asked["cached"], asked["copied"], asked["key"]) == (10, 3, False)


def test_what_cannot_be_evaded_is_asked_all_the_same(foresight: CachePredictor) -> None:
    run(foresight, "a", text("hello"), generated=6)
    ask(foresight, "foresee", "b", prompt=text("hello there"), batched=True)
    assert ask(foresight, "asked", "b", anyway=True)["key"]
    assert foresight._followed["b"].asked
    assert ask(foresight, "evade", "unknown") is None


def test_a_cure_that_is_a_key_is_not_sent(foresight: CachePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    run(foresight, "a", session(AGENT, 15))
    assert foresight._cures is not None and foresight._mirror is not None
    cure = foresight._cures.wanted(MOST)
    assert cure is not None
    foresight._mirror.insert(ids_of(cure), "assistant")
    monkeypatch.setattr(foresight._cures, "wanted", lambda _: cure)
    assert ask(foresight, "cure", "") is None
