"""The chat form is what the relay always sent."""

from __future__ import annotations

from proxy.dialects.chat import ChatForm
from proxy.errors import Unavailable
from proxy.stream.answer import Answer
from tests.support import child_events


def form() -> ChatForm:
    return ChatForm(Answer.new(unique="x", created=1, model="m", is_chat=True), include_usage=False)


def test_it_opens_with_nothing_and_changes_no_body() -> None:
    assert form().opening() == b""
    assert form().whole(b"{}") == b"{}"


def test_it_rewrites_the_childs_events() -> None:
    out = form().writer().feed(child_events.chat_stream("a"))
    assert b"chatcmpl-x" in out
    assert out.endswith(b"data: [DONE]\n\n")


def test_a_failure_is_an_object_before_the_end() -> None:
    out = form().failure(Unavailable("died"))
    assert out.startswith(b'data: {"error":')
    assert out.endswith(b"data: [DONE]\n\n")


def test_signs_of_life() -> None:
    assert form().keepalive("queued", empty_event=False) == b": queued\n\n"
    assert b'"delta":{' in form().keepalive("queued", empty_event=True)
