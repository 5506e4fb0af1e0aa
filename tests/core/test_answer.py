"""The answer's identity, and the table of what becomes of one that broke."""

from __future__ import annotations

import json

import pytest

from proxy.core.answer import Answer, Break, Phase, Verdict, judge_break


def an_answer(*, is_chat: bool = True, phase: Phase = Phase.NOTHING, attempts: int = 1) -> Answer:
    answer = Answer.new(unique="u", created=42, model="served", is_chat=is_chat)
    answer.reach(phase)
    answer.attempts = attempts
    return answer


def test_the_empty_event_of_a_chat() -> None:
    assert an_answer().empty_event() == (
        b'data: {"id":"chatcmpl-u","object":"chat.completion.chunk","created":42,"model":"served",'
        b'"choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
    )


def test_the_empty_event_of_a_text_completion() -> None:
    event = json.loads(an_answer(is_chat=False).empty_event().removeprefix(b"data: "))
    assert event["object"] == "text_completion"
    assert event["id"] == "cmpl-u"
    assert event["choices"] == [{"index": 0, "text": "", "finish_reason": None}]


def test_a_phase_never_goes_back() -> None:
    answer = an_answer(phase=Phase.CONTENT)
    answer.reach(Phase.HEADERS)
    assert answer.phase is Phase.CONTENT


@pytest.mark.parametrize(
    ("how", "dead", "phase", "attempts", "verdict"),
    [
        # a bad request is one, whatever the child does
        (Break.INVALID, True, Phase.NOTHING, 1, Verdict.INVALID),
        (Break.INVALID, False, Phase.HEADERS, 1, Verdict.INVALID),
        # the child lives
        (Break.REJECTED, False, Phase.NOTHING, 1, Verdict.INVALID),
        (Break.CUT, False, Phase.NOTHING, 1, Verdict.FAILED),
        (Break.CUT, False, Phase.CONTENT, 1, Verdict.FAILED),
        (Break.NOT_CONNECTED, False, Phase.NOTHING, 0, Verdict.REPLAY),
        # the child died and nothing was seen
        (Break.REJECTED, True, Phase.NOTHING, 1, Verdict.REPLAY),
        (Break.CUT, True, Phase.HEADERS, 1, Verdict.REPLAY),
        (Break.CUT, True, Phase.HEADERS, 2, Verdict.REPLAY),
        (Break.CUT, True, Phase.HEADERS, 3, Verdict.UNAVAILABLE),
        # never asked: no attempt is used up
        (Break.NOT_CONNECTED, True, Phase.NOTHING, 2, Verdict.REPLAY),
        # the child died and something was seen
        (Break.CUT, True, Phase.CONTENT, 1, Verdict.UNAVAILABLE),
    ],
)
def test_what_becomes_of_a_broken_answer(
    how: Break, dead: bool, phase: Phase, attempts: int, verdict: Verdict
) -> None:
    assert judge_break(an_answer(phase=phase, attempts=attempts), how, dead=dead, max_replays=2) is verdict


@pytest.mark.parametrize(
    ("how", "phase", "retried", "verdict"),
    [
        (Break.CUT, Phase.NOTHING, False, Verdict.RETRY),
        (Break.REJECTED, Phase.HEADERS, False, Verdict.RETRY),
        (Break.CUT, Phase.HEADERS, True, Verdict.UNAVAILABLE),
        (Break.CUT, Phase.CONTENT, False, Verdict.UNAVAILABLE),
        (Break.NOT_CONNECTED, Phase.NOTHING, False, Verdict.REPLAY),
        (Break.INVALID, Phase.NOTHING, False, Verdict.INVALID),
    ],
)
def test_a_living_child_that_lacked_memory_is_asked_once_more(
    how: Break, phase: Phase, retried: bool, verdict: Verdict
) -> None:
    answer = an_answer(phase=phase)
    assert judge_break(answer, how, dead=False, max_replays=2, strained=True, retried=retried) is verdict
