"""The table of what follows from a failed attempt."""

from __future__ import annotations

import pytest

from proxy.relay.break_policy import BreakVerdict, judge_break
from proxy.stream.answer import AnswerPhase
from proxy.upstream.broken import BreakKind
from tests.proxy.stream.test_answer import an_answer


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
        (BreakKind.NOT_ASKED, False, AnswerPhase.NOTHING, 0, BreakVerdict.UNAVAILABLE),
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
    assert judge_break(an_answer(phase=phase, attempts=attempts), how, dead=dead) is verdict


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
    assert judge_break(answer, how, dead=False, short_of_memory=True, retried=retried) is verdict


@pytest.mark.parametrize(
    ("how", "dead", "phase", "asked_again", "verdict"),
    [
        (BreakKind.CALL_LOST, False, AnswerPhase.NOTHING, False, BreakVerdict.ASK_AGAIN),
        (BreakKind.CUT, False, AnswerPhase.HEADERS, False, BreakVerdict.ASK_AGAIN),
        (BreakKind.CUT, False, AnswerPhase.HEADERS, True, BreakVerdict.CALL_UNREADABLE),
        (BreakKind.CUT, False, AnswerPhase.CONTENT, False, BreakVerdict.CALL_UNREADABLE),
        (BreakKind.CUT, True, AnswerPhase.NOTHING, False, BreakVerdict.REPLAY),
    ],
)
def test_a_tool_call_that_could_not_be_read_is_asked_for_once_more(
    how: BreakKind, dead: bool, phase: AnswerPhase, asked_again: bool, verdict: BreakVerdict
) -> None:
    answer = an_answer(phase=phase, attempts=1)
    assert judge_break(answer, how, dead=dead, choked=True, asked_again=asked_again) is verdict
