"""Sessions as clients name them: headers tell apart what begins alike, and join nothing."""

from __future__ import annotations

from dataclasses import replace

from proxy.request.completion import ChatPrompt, CompletionRequest, TextPrompt
from proxy.request.session import HEADERS, named_session


def request(*said: str, named: str = "") -> CompletionRequest:
    messages = tuple({"role": "user", "content": text} for text in said)
    return CompletionRequest(ChatPrompt(messages), named_session=named)


def test_each_header_names_a_session() -> None:
    for header in HEADERS:
        assert named_session({header: "abc"}) == "abc"
    assert named_session({"user-agent": "x"}) == ""


def test_a_subagent_is_another_session_than_its_parent() -> None:
    parent = {"x-claude-code-session-id": "s"}
    assert named_session(parent) != named_session({**parent, "x-claude-code-agent-id": "a"})


def test_an_endless_value_is_cut() -> None:
    assert len(named_session({"x-session-id": "x" * 10_000})) == 128


def test_a_session_stays_the_same_while_it_grows() -> None:
    assert request("a").session() == request("a", "b").session() != request("b").session()


def test_headers_tell_apart_what_begins_alike() -> None:
    assert request("a", named="1").session() != request("a", named="2").session() != request("a").session()


def test_headers_do_not_join_what_begins_differently() -> None:
    assert request("a", named="1").session() != request("b", named="1").session()
    text = CompletionRequest(TextPrompt("a"))
    assert text.session() != replace(text, named_session="1").session()
