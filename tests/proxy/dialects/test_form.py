"""Every dialect has a form that the relay can use."""

from __future__ import annotations

import pytest

from proxy.dialects.chat import ChatForm
from proxy.dialects.form import AnswerForm
from proxy.dialects.messages.events import MessageForm
from proxy.dialects.responses.events import ResponseForm
from proxy.dialects.responses.tools import FunctionTable
from proxy.stream.answer import Answer
from tests.support import child_events

ANSWER = Answer.new(unique="x", created=1, model="m", is_chat=True)
FORMS: list[AnswerForm] = [
    ChatForm(ANSWER, include_usage=False),
    MessageForm(ANSWER, 7),
    ResponseForm(ANSWER, 7, table=FunctionTable(), is_length_set=False),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_a_new_writer_knows_nothing_of_the_one_before(form: AnswerForm) -> None:
    first = form.writer()
    first.feed(child_events.delta(content="a"))
    second = form.writer()
    assert first.seen.content
    assert not second.seen.content
    assert second.pass_through(child_events.delta(content="a")) is None
