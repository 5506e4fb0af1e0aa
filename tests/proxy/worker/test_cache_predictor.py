"""Following requests through the worker's own code, with one token per character in place of a tokenizer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from proxy.cache.radix_tree import Ids
from proxy.worker.cache_predictor import CachePredictor
from proxy.worker.prompt_ids import PromptIds, SegmentEnd
from tests.proxy.cache.test_client import prediction
from tests.proxy.worker.test_search_shortcuts import AGENT, MOST, ids_of, session


class Characters:
    """Stands in for ChildIds."""

    def of(self, prompt: dict[str, Any]) -> Ids:
        return ids_of(prompt)

    def segment_ends(self, prompt: dict[str, Any], ids: Ids) -> list[SegmentEnd]:
        del prompt
        return [SegmentEnd(len(ids), "assistant")]

    def texts(self, prompt: dict[str, Any]) -> list[str]:
        return [prompt["prompt"]]

    def ends(self) -> list[str]:
        return []


@pytest.fixture
def predictor() -> CachePredictor:
    made = CachePredictor(cast("PromptIds", Characters()))
    made.reset({"sequences": 10}, MOST)
    return made


def text(characters: str) -> dict[str, Any]:
    return {"prompt": characters}


def ask(predictor: CachePredictor, do: str, id: str, **fields: Any) -> Any:
    of = {"of": id} if id else {}
    return predictor.answer({"op": "predictor", "do": do, **of, **fields})


def run(predictor: CachePredictor, id: str, prompt: dict[str, Any], *, generated: int = 3) -> Any:
    ask(predictor, "predict", id, prompt=prompt, batched=True)
    found = ask(predictor, "asked", id)
    ask(predictor, "read", id, cached=found["cached"])
    ask(predictor, "ended", id, generated=generated, cached=found["cached"], complete=True)
    return found


def test_nothing_is_predicted_before_a_child_is_known() -> None:
    unknown = CachePredictor(cast("PromptIds", Characters()))
    assert ask(unknown, "predict", "a", prompt=text("abc"), batched=True) is None
    assert ask(unknown, "asked", "a") is None
    assert ask(unknown, "read", "a", cached=None) is None
    assert ask(unknown, "ended", "a", generated=0, cached=None, complete=False) is None
    assert ask(unknown, "shortcut", "") is None


def test_the_next_turn_is_given_the_prompt_before(predictor: CachePredictor) -> None:
    assert run(predictor, "a", text("hello"))["cached"] == 0
    assert run(predictor, "b", text("hello there"))["cached"] == 5


def test_what_is_being_read_is_not_there_yet(predictor: CachePredictor) -> None:
    ask(predictor, "predict", "a", prompt=text("hello"), batched=True)
    ask(predictor, "asked", "a")
    assert ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)["cached"] == 0
    ask(predictor, "read", "a", cached=0)
    assert ask(predictor, "asked", "b")["cached"] == 4  # the last token was not read by itself yet


def test_what_was_cut_short_keeps_what_it_had_read(predictor: CachePredictor) -> None:
    for id, read in (("x", False), ("y", True)):
        ask(predictor, "predict", id, prompt=text(f"{id}bcdef"), batched=True)
        ask(predictor, "asked", id)
        if read:
            ask(predictor, "read", id, cached=0)
        ask(predictor, "ended", id, generated=2, cached=None, complete=False)
    assert ask(predictor, "predict", "c", prompt=text("xbcdefg"), batched=True)["cached"] == 0
    assert ask(predictor, "predict", "d", prompt=text("ybcdefg"), batched=True)["cached"] == 5


def test_what_the_server_does_not_run_in_its_batch_is_kept_at_its_end_only(predictor: CachePredictor) -> None:
    ask(predictor, "predict", "a", prompt=text("hello"), batched=False)
    ask(predictor, "asked", "a")
    ask(predictor, "read", "a", cached=0)
    assert ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)["cached"] == 0
    ask(predictor, "ended", "a", generated=1, cached=0, complete=True)
    assert ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)["cached"] == 5


def test_a_new_child_knows_nothing_but_what_waits_is_still_followed(predictor: CachePredictor) -> None:
    run(predictor, "a", text("hello"))
    ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)
    predictor.reset({"sequences": 10}, MOST)
    assert ask(predictor, "asked", "b") == prediction(tokens=11, longest=2, inserts=[10])


def test_a_long_session_gets_one_shortcut(predictor: CachePredictor) -> None:
    run(predictor, "a", session(AGENT, 15))
    sibling = {"messages": [AGENT, {"role": "user", "content": "something else"}]}
    assert ask(predictor, "predict", "b", prompt=sibling, batched=True)["cost"] > MOST
    shortcut = ask(predictor, "shortcut", "")
    ask(predictor, "ended", shortcut["id"], generated=1, cached=None, complete=True)
    assert ask(predictor, "predict", "b", prompt=sibling, batched=True)["cost"] < MOST
    assert ask(predictor, "shortcut", "") is None


def test_arguments_of_tool_calls_are_sent_as_text(predictor: CachePredictor) -> None:
    """Rendering parses them in place, as the server does; it would not take them parsed."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    trunk = [
        AGENT,
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "w" * 100},
    ]
    run(predictor, "a", {"messages": [*trunk, {"role": "user", "content": "x" * 9000}]})
    run(predictor, "b", {"messages": [*trunk, {"role": "user", "content": "y" * 9000}]})
    shortcut = ask(predictor, "shortcut", "")
    [arguments] = [
        call["function"]["arguments"]
        for message in shortcut["prompt"]["messages"]
        for call in message.get("tool_calls", ())
    ]
    assert arguments == '{"a": 1}'
    assert call["function"] == {"name": "f", "arguments": {"a": 1}}


def test_a_prompt_that_may_be_a_key_is_avoided_before_it_is_asked(predictor: CachePredictor) -> None:
    run(predictor, "a", text("hello"), generated=6)
    found = ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)
    assert found["exact_hit"] and ask(predictor, "asked", "b")["exact_hit"]
    assert not predictor._followed["b"].asked, "not yet"
    way = ask(predictor, "avoid_exact_hit", "b")
    assert way["body"] == {"prompt": "hello there\n", "max_tokens": 1, "temperature": 0}
    run(predictor, "longer", {"prompt": way["body"]["prompt"]}, generated=1)
    assert ask(predictor, "avoid_exact_hit", "b") is None
    asked = ask(predictor, "asked", "b", anyway=True)
    assert (asked["cached"], asked["cost"], asked["exact_hit"]) == (10, 3, False)


def test_what_cannot_be_avoided_is_asked_all_the_same(predictor: CachePredictor) -> None:
    run(predictor, "a", text("hello"), generated=6)
    ask(predictor, "predict", "b", prompt=text("hello there"), batched=True)
    assert ask(predictor, "asked", "b", anyway=True)["exact_hit"]
    assert predictor._followed["b"].asked
    assert ask(predictor, "avoid_exact_hit", "unknown") is None


def test_a_shortcut_that_is_a_key_is_not_sent(
    predictor: CachePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(predictor, "a", session(AGENT, 15))
    assert predictor._shortcuts is not None and predictor._simulator is not None
    shortcut = predictor._shortcuts.wanted(MOST)
    assert shortcut is not None
    predictor._simulator.insert(ids_of(shortcut), "assistant")
    monkeypatch.setattr(predictor._shortcuts, "wanted", lambda _: shortcut)
    assert ask(predictor, "shortcut", "") is None
