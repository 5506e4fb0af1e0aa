"""The answer's identity, and the table of what becomes of one that broke."""

from __future__ import annotations

import json

import pytest

from proxy.relay.break_policy import BreakVerdict, judge_break
from proxy.stream.answer import Answer, AnswerPhase
from proxy.upstream.broken import BreakKind


def an_answer(*, is_chat: bool = True, phase: AnswerPhase = AnswerPhase.NOTHING, attempts: int = 1) -> Answer:
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
    answer = an_answer(phase=AnswerPhase.CONTENT)
    answer.reach(AnswerPhase.HEADERS)
    assert answer.phase is AnswerPhase.CONTENT


@pytest.mark.parametrize(
    ("how", "dead", "phase", "attempts", "verdict"),
    [
        # a bad request is one, whatever the child does
        (BreakKind.INVALID, True, AnswerPhase.NOTHING, 1, BreakVerdict.INVALID),
        (BreakKind.INVALID, False, AnswerPhase.HEADERS, 1, BreakVerdict.INVALID),
        # the child lives
        (BreakKind.REJECTED, False, AnswerPhase.NOTHING, 1, BreakVerdict.INVALID),
        (BreakKind.CUT, False, AnswerPhase.NOTHING, 1, BreakVerdict.FAILED),
        (BreakKind.CUT, False, AnswerPhase.CONTENT, 1, BreakVerdict.FAILED),
        (BreakKind.NOT_CONNECTED, False, AnswerPhase.NOTHING, 0, BreakVerdict.REPLAY),
        # the child died and nothing was seen
        (BreakKind.REJECTED, True, AnswerPhase.NOTHING, 1, BreakVerdict.REPLAY),
        (BreakKind.CUT, True, AnswerPhase.HEADERS, 1, BreakVerdict.REPLAY),
        (BreakKind.CUT, True, AnswerPhase.HEADERS, 2, BreakVerdict.REPLAY),
        (BreakKind.CUT, True, AnswerPhase.HEADERS, 3, BreakVerdict.UNAVAILABLE),
        # never asked: no attempt is used up
        (BreakKind.NOT_CONNECTED, True, AnswerPhase.NOTHING, 2, BreakVerdict.REPLAY),
        # the child died and something was seen
        (BreakKind.CUT, True, AnswerPhase.CONTENT, 1, BreakVerdict.UNAVAILABLE),
    ],
)
def test_what_becomes_of_a_broken_answer(
    how: BreakKind, dead: bool, phase: AnswerPhase, attempts: int, verdict: BreakVerdict
) -> None:
    assert judge_break(an_answer(phase=phase, attempts=attempts), how, dead=dead, max_replays=2) is verdict


@pytest.mark.parametrize(
    ("how", "phase", "retried", "verdict"),
    [
        (BreakKind.CUT, AnswerPhase.NOTHING, False, BreakVerdict.RETRY),
        (BreakKind.REJECTED, AnswerPhase.HEADERS, False, BreakVerdict.RETRY),
        (BreakKind.CUT, AnswerPhase.HEADERS, True, BreakVerdict.UNAVAILABLE),
        (BreakKind.CUT, AnswerPhase.CONTENT, False, BreakVerdict.UNAVAILABLE),
        (BreakKind.NOT_CONNECTED, AnswerPhase.NOTHING, False, BreakVerdict.REPLAY),
        (BreakKind.INVALID, AnswerPhase.NOTHING, False, BreakVerdict.INVALID),
    ],
)
def test_a_living_child_that_lacked_memory_is_asked_once_more(
    how: BreakKind, phase: AnswerPhase, retried: bool, verdict: BreakVerdict
) -> None:
    answer = an_answer(phase=phase)
    assert judge_break(answer, how, dead=False, max_replays=2, strained=True, retried=retried) is verdict
