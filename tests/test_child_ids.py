"""Where the server cuts a prompt; the ids themselves are compared with the server's in test_foresight.py."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.child_ids import ChildIds, Cut, kept, system_messages
from proxy.segments import Segments

if TYPE_CHECKING:
    from proxy.child_tokenizer import ChildTokenizer


@pytest.mark.parametrize(
    ("cuts", "cached", "expected"),
    [
        # The last token is read by itself, so the last segment is kept without it.
        ([Cut(10, "assistant")], 0, [Cut(9, "assistant")]),
        ([Cut(4, "system"), Cut(10, "user")], 0, [Cut(4, "system"), Cut(9, "user")]),
        (
            [Cut(4, "system"), Cut(8, "user"), Cut(10, "assistant")],
            0,
            [Cut(4, "system"), Cut(8, "user"), Cut(9, "assistant")],
        ),
        # A last segment of one token is nothing but the last token.
        ([Cut(4, "system"), Cut(9, "user"), Cut(10, "assistant")], 0, [Cut(4, "system"), Cut(9, "user")]),
        # What came from the cache is not kept again.
        ([Cut(4, "system"), Cut(10, "user")], 4, [Cut(9, "user")]),
        ([Cut(4, "system"), Cut(10, "user")], 7, [Cut(9, "user")]),
        ([Cut(4, "system"), Cut(10, "user")], 9, []),
        ([Cut(4, "system"), Cut(10, "user")], 10, []),
    ],
)
def test_what_the_server_keeps_while_it_reads(cuts: list[Cut], cached: int, expected: list[Cut]) -> None:
    assert kept(cuts, cached) == expected


class Spelled:
    """A tokenizer of one token per word, as far as its segments go; says what it has encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.segments = Segments(("<a>",), self.encode)

    def encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        self.encoded += texts
        return [[len(word) for word in text.split()] for text in texts]

    def render(self, prompt: dict[str, Any]) -> str:
        return "".join(f"<a> {message}" for message in prompt["messages"])


def test_what_was_counted_is_not_encoded_again() -> None:
    tokenizer = Spelled()
    ids = ChildIds(cast("ChildTokenizer", tokenizer))
    prompt = {"messages": ["one word ", "four", "one word "]}
    assert tokenizer.segments.count(tokenizer.render(prompt)) == 8
    assert list(ids.of(prompt)) == [3, 3, 4, 3, 4, 3, 3, 4]
    assert tokenizer.encoded == ["<a> one word ", "<a> four"]
    prompt["messages"].append("seven")
    assert list(ids.of(prompt))[-2:] == [3, 5]
    assert tokenizer.segments.count(tokenizer.render(prompt)) == 10


class Rendering:
    """A tokenizer that renders a chat as `text`."""

    def __init__(self, text: str, **wrapper: str | None) -> None:
        self.segments = None
        self.wrapper = SimpleNamespace(**wrapper)
        self.render = lambda _: text


def test_texts_for_the_same_tokens() -> None:
    first = ChildIds(cast("ChildTokenizer", Rendering("<s>hi", bos_token="<s>", eos_token="</s>")))
    assert (first.texts({}), first.ends()) == (["<s>hi", "hi"], ["</s>"])
    for tokens in ({}, {"bos_token": None, "eos_token": None}):
        bare = ChildIds(cast("ChildTokenizer", Rendering("<s>hi", **tokens)))
        assert (bare.texts({}), bare.ends()) == (["<s>hi"], [])


def test_system_messages_at_the_start() -> None:
    system, user = {"role": "system", "content": "a"}, {"role": "user", "content": "b"}
    assert system_messages([system, system, user, system]) == [system, system]
    assert system_messages([user]) == []
    assert system_messages([system]) == [system]
