"""Where the server cuts a prompt; the ids themselves are compared with the server's in test_foresight.py."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.worker.prompt_ids import PromptIds, SegmentEnd, stored_ends, system_messages
from proxy.worker.segments import Segments
from proxy.worker.server_tokenizer import ServerTokenizer


@pytest.mark.parametrize(
    ("cuts", "cached", "expected"),
    [
        # The last token is read by itself, so the last segment is kept without it.
        ([SegmentEnd(10, "assistant")], 0, [SegmentEnd(9, "assistant")]),
        (
            [SegmentEnd(4, "system"), SegmentEnd(10, "user")],
            0,
            [SegmentEnd(4, "system"), SegmentEnd(9, "user")],
        ),
        (
            [SegmentEnd(4, "system"), SegmentEnd(8, "user"), SegmentEnd(10, "assistant")],
            0,
            [SegmentEnd(4, "system"), SegmentEnd(8, "user"), SegmentEnd(9, "assistant")],
        ),
        # A last segment of one token is nothing but the last token.
        (
            [SegmentEnd(4, "system"), SegmentEnd(9, "user"), SegmentEnd(10, "assistant")],
            0,
            [SegmentEnd(4, "system"), SegmentEnd(9, "user")],
        ),
        # What came from the cache is not kept again.
        ([SegmentEnd(4, "system"), SegmentEnd(10, "user")], 4, [SegmentEnd(9, "user")]),
        ([SegmentEnd(4, "system"), SegmentEnd(10, "user")], 7, [SegmentEnd(9, "user")]),
        ([SegmentEnd(4, "system"), SegmentEnd(10, "user")], 9, []),
        ([SegmentEnd(4, "system"), SegmentEnd(10, "user")], 10, []),
    ],
)
def test_what_the_server_keeps_while_it_reads(
    cuts: list[SegmentEnd], cached: int, expected: list[SegmentEnd]
) -> None:
    assert stored_ends(cuts, cached) == expected


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
    ids = PromptIds(cast("ServerTokenizer", tokenizer))
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
    first = PromptIds(cast("ServerTokenizer", Rendering("<s>hi", bos_token="<s>", eos_token="</s>")))
    assert (first.texts({}), first.ends()) == (["<s>hi", "hi"], ["</s>"])
    for tokens in ({}, {"bos_token": None, "eos_token": None}):
        bare = PromptIds(cast("ServerTokenizer", Rendering("<s>hi", **tokens)))
        assert (bare.texts({}), bare.ends()) == (["<s>hi"], [])


def test_system_messages_at_the_start() -> None:
    system, user = {"role": "system", "content": "a"}, {"role": "user", "content": "b"}
    assert system_messages([system, system, user, system]) == [system, system]
    assert system_messages([user]) == []
    assert system_messages([system]) == [system]
