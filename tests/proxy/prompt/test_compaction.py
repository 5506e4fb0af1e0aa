"""Conversations as letters: each a message, the user's and the assistant's in turn."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest

from proxy.prompt import compaction
from proxy.prompt.compaction import OverflowHistory


def said(letters: str, system: str = "rules") -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    spoken = [{"role": roles[i % 2], "content": letter} for i, letter in enumerate(letters)]
    return [{"role": "system", "content": system}, *spoken]


def test_one_request_of_a_refused_conversation_passes() -> None:
    refusals = OverflowHistory()
    assert not refusals.admit_compaction(said("abcdeS"), 0)
    refusals.record_refusal(said("abcde"), 0)
    assert not refusals.admit_compaction(said("abcde"), 1), "the same request again is no compaction"
    assert refusals.admit_compaction(said("abcdeS"), 2)
    assert not refusals.admit_compaction(said("abcdefg"), 3)
    assert not refusals.admit_compaction(said("abcde"), 3)
    assert refusals.admit_compaction(said("abcdeS"), 4), "tried again after the server has died"


@pytest.mark.parametrize("compacting", [said("abcS", "summarize"), said("abcdeS"), said("abcS")[1:]])
def test_a_compaction_may_leave_out_the_end_and_change_the_system_prompt(
    compacting: list[dict[str, Any]],
) -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    assert refusals.admit_compaction(compacting, 1)


def test_other_conversations_stay_refused() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    for other in ("abS", "xbcdeS", "S", ""):
        assert not refusals.admit_compaction(said(other), 1)


def test_a_conversation_that_goes_on_after_its_pass_gets_no_other() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    assert refusals.admit_compaction(said("abcdeS"), 1)
    refusals.record_refusal(said("abcdefg"), 2)
    assert not refusals.admit_compaction(said("abcdefgS"), 3)


def test_a_conversation_refused_again_before_its_pass_has_one() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    refusals.record_refusal(said("abcdefg"), 2)
    assert not refusals.admit_compaction(said("abcdefg"), 3)
    assert refusals.admit_compaction(said("abcdefgS"), 3)
    assert not refusals.admit_compaction(said("abcdeS"), 3)


def test_what_was_summarized_and_grew_again_is_another_conversation() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    assert refusals.admit_compaction(said("abcdeS"), 1)
    refusals.record_refusal(said("zcdefgh"), 2)
    assert refusals.admit_compaction(said("zcdefghS"), 3)


def test_refusals_are_forgotten_in_time() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said("abcde"), 0)
    assert not refusals.admit_compaction(said("abcdeS"), compaction._REMEMBERED_S)
    refusals.record_refusal(said("abcde"), compaction._REMEMBERED_S)
    assert refusals.admit_compaction(said("abcdeS"), compaction._REMEMBERED_S + 1)


def test_what_is_remembered_is_bounded() -> None:
    refusals = OverflowHistory()
    for index in range(compaction._REMEMBERED + 10):
        refusals.record_refusal([{"role": "user", "content": str(index)}], index / 1000)
    assert len(refusals._refused) == compaction._REMEMBERED
    again = [{"role": "user", "content": "9"}, {"role": "user", "content": "S"}]
    assert not refusals.admit_compaction(again, 2)
    again[0]["content"] = "10"
    assert refusals.admit_compaction(again, 2)


def test_nothing_but_rules_is_no_conversation() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(said(""), 0)
    assert not refusals.admit_compaction(said(""), 1)


def work(*, turns: int = 12, topic: str = "walrus") -> list[dict[str, Any]]:
    """A session with an agent: long tool results, and answers with quotes and line ends."""
    messages = [{"role": "system", "content": "rules"}]
    for turn in range(turns):
        messages += [
            {"role": "user", "content": f"Please look at number {turn} of the {topic} files:\n\tnow <b>"},
            {"role": "assistant", "content": f'In "{topic}" {turn} there is nothing that would be wrong.\n'},
            {"role": "tool", "content": f"{turn} " * 500},
        ]
    return messages


def as_text(messages: list[dict[str, Any]], write: Any = str) -> list[dict[str, Any]]:
    """The history in one message, as pi and others write it: results cut, everything else as it is."""
    said = (f"[{m['role']}]: {write(m['content'][:200])}" for m in messages if m["role"] != "system")
    text = "<conversation>\n" + "\n\n".join(said) + "\n</conversation>\n\nSummarize it."
    return [{"role": "system", "content": "You summarize."}, {"role": "user", "content": text}]


@pytest.mark.parametrize("write", [str, repr, json.dumps, html.escape])
def test_a_history_that_is_told_as_one_text_is_a_compaction(write: Any) -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(work(topic="other"), 0)
    refusals.record_refusal(work(), 0)
    told = as_text(work()[:-8], write)
    assert refusals.admit_compaction(told, 1)
    assert refusals.admit_compaction(told, 2)
    assert not refusals.admit_compaction(as_text(work()), 3), "one request of each"
    assert refusals.admit_compaction(as_text(work(topic="other")), 4)


@pytest.mark.parametrize(
    "other",
    [
        as_text(work(topic="seal")),
        as_text(work()[:14]),  # less than half of it
        work()[10:],  # the same messages without the first
        [{"role": "user", "content": work()[1]["content"]}, {"role": "user", "content": "x" * 9000}],
    ],
)
def test_a_text_that_does_not_tell_a_refused_conversation_is_none(other: list[dict[str, Any]]) -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(work(), 0)
    assert not refusals.admit_compaction(other, 1)


def test_a_short_conversation_is_not_known_by_its_words() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(work(turns=1), 0)
    assert not refusals.admit_compaction(as_text(work(turns=1)), 1)


def test_excerpts_are_few_and_from_all_over() -> None:
    refusals = OverflowHistory()
    refusals.record_refusal(work(turns=400), 0)
    (refused,) = refusals._refused.values()
    assert len(refused.excerpts) <= 16
    assert " 375 " in refused.excerpts[-1]
    assert not refusals.admit_compaction(as_text(work(turns=400)), compaction._REMEMBERED_S)
