"""The identity of an answer, and its phases."""

from __future__ import annotations

import json

from proxy.stream.answer import Answer, AnswerPhase


def an_answer(*, is_chat: bool = True, phase: AnswerPhase = AnswerPhase.NOTHING, attempts: int = 1) -> Answer:
    answer = Answer.new(unique="u", created=42, model="served", is_chat=is_chat)
    answer.reach(phase)
    answer.attempts = attempts
    return answer


def test_the_empty_event_of_a_chat() -> None:
    assert an_answer().empty_event() == (
        b'data: {"id":"chatcmpl-u","object":"chat.completion.chunk","created":42,"model":"served",'
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
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
