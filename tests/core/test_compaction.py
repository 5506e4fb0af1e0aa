"""Conversations as letters: each a message, the user's and the assistant's in turn."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core import compaction
from proxy.core.compaction import Refusals


def said(letters: str, system: str = "rules") -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    spoken = [{"role": roles[i % 2], "content": letter} for i, letter in enumerate(letters)]
    return [{"role": "system", "content": system}, *spoken]


def test_one_request_of_a_refused_conversation_passes() -> None:
    refusals = Refusals()
    assert not refusals.take(said("abcdeS"), 0)
    refusals.remember(said("abcde"), 0)
    assert not refusals.take(said("abcde"), 1), "the same request again is no compaction"
    assert refusals.take(said("abcdeS"), 2)
    assert not refusals.take(said("abcdefg"), 3)
    assert not refusals.take(said("abcde"), 3)
    assert refusals.take(said("abcdeS"), 4), "tried again after the server has died"


@pytest.mark.parametrize("compacting", [said("abcS", "summarize"), said("abcdeS"), said("abcS")[1:]])
def test_a_compaction_may_leave_out_the_end_and_change_the_system_prompt(
    compacting: list[dict[str, Any]],
) -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    assert refusals.take(compacting, 1)


def test_other_conversations_stay_refused() -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    for other in ("abS", "xbcdeS", "S", ""):
        assert not refusals.take(said(other), 1)


def test_a_conversation_that_goes_on_after_its_pass_gets_no_other() -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    assert refusals.take(said("abcdeS"), 1)
    refusals.remember(said("abcdefg"), 2)
    assert not refusals.take(said("abcdefgS"), 3)


def test_a_conversation_refused_again_before_its_pass_has_one() -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    refusals.remember(said("abcdefg"), 2)
    assert not refusals.take(said("abcdefg"), 3)
    assert refusals.take(said("abcdefgS"), 3)
    assert not refusals.take(said("abcdeS"), 3)


def test_what_was_summarized_and_grew_again_is_another_conversation() -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    assert refusals.take(said("abcdeS"), 1)
    refusals.remember(said("zcdefgh"), 2)
    assert refusals.take(said("zcdefghS"), 3)


def test_refusals_are_forgotten_in_time() -> None:
    refusals = Refusals()
    refusals.remember(said("abcde"), 0)
    assert not refusals.take(said("abcdeS"), compaction._REMEMBERED_S)
    refusals.remember(said("abcde"), compaction._REMEMBERED_S)
    assert refusals.take(said("abcdeS"), compaction._REMEMBERED_S + 1)


def test_what_is_remembered_is_bounded() -> None:
    refusals = Refusals()
    for index in range(compaction._REMEMBERED + 10):
        refusals.remember([{"role": "user", "content": str(index)}], index / 1000)
    assert len(refusals._refused) == compaction._REMEMBERED
    again = [{"role": "user", "content": "9"}, {"role": "user", "content": "S"}]
    assert not refusals.take(again, 2)
    again[0]["content"] = "10"
    assert refusals.take(again, 2)


def test_nothing_but_rules_is_no_conversation() -> None:
    refusals = Refusals()
    refusals.remember(said(""), 0)
    assert not refusals.take(said(""), 1)
