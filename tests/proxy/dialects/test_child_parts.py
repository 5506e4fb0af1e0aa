"""The child's stream as parts: in order, joined where they arrive together, the same on both paths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.child_parts import CallPart, PartReader, ReasoningPart, TextPart
from tests.proxy.stream.test_sse import pieces_of
from tests.support import child_events
from tests.support.child_streams import ChildStream, as_json, child_streams


@given(child_streams(), st.lists(st.integers(min_value=0), max_size=12))
def test_both_ways_of_reading_give_the_same(stream: ChildStream, cuts: list[int]) -> None:
    fed, quick = PartReader(), PartReader()
    fed.feed(stream.data)
    texts: list[str] = []
    for piece in pieces_of(stream.data, cuts):
        text = quick.text_only(piece)
        parts = quick.feed(piece) if text is None else [TextPart(text)]
        texts += [part.text for part in parts if isinstance(part, TextPart)]
    assert as_json("".join(texts)) == stream.whole_text
    assert quick.seen == fed.seen
    assert quick.finish_reason == fed.finish_reason == stream.finish_reason


def test_parts_that_arrive_together_are_joined_and_calls_are_not() -> None:
    calls = [child_events.tool_call("f", "{}", index=index) for index in range(2)]
    parts = PartReader().feed(
        child_events.delta(reasoning="a")
        + child_events.delta(reasoning="b")
        + child_events.delta(content="c")
        + child_events.delta()
        + child_events.delta(content="d", tool_calls=calls)
        + child_events.delta(content="e")
    )
    assert parts == [
        ReasoningPart("ab"),
        TextPart("cd"),
        CallPart("call-0", "f", "{}"),
        CallPart("call-1", "f", "{}"),
        TextPart("e"),
    ]


def test_what_follows_the_end_is_no_part() -> None:
    reader = PartReader()
    end = child_events.delta(content="a") + child_events.DONE
    assert reader.feed(end + child_events.delta(content="b")) == [TextPart("a")]
    assert reader.feed(child_events.delta(content="c")) == []
    assert reader.text_only(child_events.delta(content="c")) is None


def test_a_call_that_lacks_everything_is_still_a_call() -> None:
    assert PartReader().feed(child_events.delta(tool_calls=[{}])) == [CallPart("", "", "{}")]


def test_text_that_spells_an_event_is_text() -> None:
    reader = PartReader()
    reader.feed(child_events.delta(content="a"))
    odd = 'x"}}]}\n\ndata: {"content": "'
    assert reader.text_only(child_events.delta(content=odd)) == odd
