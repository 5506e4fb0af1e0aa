"""Conversations as strict templates want them, whatever order the parts come in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.conversation import ConversationBuilder, image
from proxy.request.images import ImagePolicy

BLIND, SEEING = ImagePolicy(), ImagePolicy(most=1, obstacle=None)
PIECES = st.lists(st.one_of(st.just("t"), st.just(""), st.just(image("data:x"))), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("instruct"), st.text(max_size=3)),
    st.tuples(st.just("say"), PIECES),
    st.tuples(
        st.just("answer"), st.sampled_from([{}, {"text": "a"}, {"reasoning": "r"}, {"calls": [{"id": "c"}]}])
    ),
    st.tuples(st.just("result"), PIECES),
)


def built(steps: list[tuple[str, Any]], images: ImagePolicy) -> tuple[list[dict[str, Any]], list[str]]:
    conversation = ConversationBuilder(images)
    for number, (what, value) in enumerate(steps):
        origin = f"item[{number}]"
        match what:
            case "instruct":
                conversation.instruct(value, origin)
            case "say":
                conversation.say(value, origin)
            case "answer":
                conversation.answer(origin, **value)
            case "result":
                conversation.result("c", value, origin)
    return conversation.finish()


@given(st.lists(STEPS, max_size=12), st.sampled_from([BLIND, SEEING]))
def test_what_strict_templates_refuse_is_never_built(
    steps: list[tuple[str, Any]], images: ImagePolicy
) -> None:
    messages, origins = built(steps, images)
    roles = [message["role"] for message in messages]
    assert "system" not in roles[1:]
    assert all(one != other or one == "tool" for one, other in pairwise(roles))
    assert len(origins) == len(messages)
    for message in messages:
        assert type(message["content"]) is str or message["role"] == "user"


def without_images(step: tuple[str, Any]) -> tuple[str, Any]:
    what, value = step
    return what, [piece for piece in value if type(piece) is str] if type(value) is list else value


@given(st.lists(STEPS.map(without_images), max_size=10), STEPS.map(without_images))
def test_what_comes_later_changes_at_most_the_end_of_the_last_message(
    steps: list[tuple[str, Any]], more: tuple[str, Any]
) -> None:
    """The prefix stays. (With images it may not: the oldest give way, and the last turn is stricter.)"""
    before, _ = built(steps, BLIND)
    after, _ = built([*steps, more], BLIND)
    assert after[: len(before) - 1] == before[:-1]
    assert not before or after[len(before) - 1]["content"].startswith(before[-1]["content"])


def test_the_origins_are_where_messages_begin() -> None:
    _, origins = built([("instruct", "a"), ("instruct", "b"), ("say", ["c"]), ("instruct", "d")], BLIND)
    assert origins == ["item[0]", "item[2]"]
