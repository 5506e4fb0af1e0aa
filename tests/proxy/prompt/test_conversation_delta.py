from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.prompt import conversation_delta
from proxy.prompt.conversation_delta import Receiver, Sender


def sent(sender: Sender, receiver: Receiver, prompt: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The prompt as it arrives, and how many messages were sent for it."""
    frame = orjson.loads(orjson.dumps(sender.packed(prompt)))
    return receiver.unpacked(frame), len(frame["messages"]["new"])


def said(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


value = st.sampled_from(["", "a", "],[", "\\", '"', 1, 1.0, True, None, {"a": 1, "b": 2}, {"b": 2, "a": 1}])
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": value})


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 6), st.lists(message, max_size=4)), max_size=30
    ),
    most_bytes=st.sampled_from([10**6, 400, 60]),
)
def test_every_prompt_arrives_as_it_is(
    steps: list[tuple[int, int, list[dict[str, Any]]]], most_bytes: int
) -> None:
    """Prompts that go on from any earlier one, or from a part of it."""
    sender, receiver = Sender(shortest=2, most_bytes=most_bytes), Receiver()
    prompts: list[list[Any]] = [[]]
    for earlier, kept, new in steps:
        prompts.append([*prompts[earlier % len(prompts)][:kept], *new])
        if prompts[-1]:
            arrived, _ = sent(sender, receiver, {"messages": tuple(prompts[-1]), "tools": ["t"]})
            assert orjson.dumps(arrived) == orjson.dumps({"messages": prompts[-1], "tools": ["t"]})
        assert receiver._kept.keys() == {known.name for known in sender._known}


def test_only_what_is_new_is_sent() -> None:
    sender, receiver = Sender(shortest=2), Receiver()
    counts = []
    for contents in ("a", "abc", "abcd", "abcX", "abcXYZ", "abcX", "b", "abcXYZabc"):
        arrived, count = sent(sender, receiver, {"messages": said(*contents)})
        assert arrived == {"messages": said(*contents)}
        counts.append(count)
    # What changes at the end, or is asked again, costs its last message; what is shorter, all of it.
    assert counts == [1, 3, 2, 1, 3, 4, 1, 4]


@pytest.mark.parametrize(("first", "second"), [(1, True), (1, 1.0), ({"a": 1, "b": 1}, {"b": 1, "a": 1})])
def test_what_is_equal_but_not_the_same_is_sent(first: Any, second: Any) -> None:
    sender, receiver = Sender(shortest=2), Receiver()
    sent(sender, receiver, {"messages": said(first, "x")})
    arrived, count = sent(sender, receiver, {"messages": said(second, "x")})
    assert (count, orjson.dumps(arrived)) == (2, orjson.dumps({"messages": said(second, "x")}))


def test_the_message_lists_that_arrive_are_not_those_that_are_kept() -> None:
    sender, receiver = Sender(shortest=2), Receiver()
    for _ in range(3):
        arrived, _ = sent(sender, receiver, {"messages": said("a", "b")})
        assert arrived["messages"] == said("a", "b")
        arrived["messages"].clear()


def test_short_conversations_and_other_prompts_are_not_kept() -> None:
    sender, receiver = Sender(), Receiver()
    assert sent(sender, receiver, {"messages": said("a", "b")}) == ({"messages": said("a", "b")}, 2)
    assert receiver.unpacked(orjson.loads(orjson.dumps(sender.packed({"prompt": "x" * 20_000})))) == {
        "prompt": "x" * 20_000
    }
    assert (sender._known, receiver._kept) == ([], {})


def test_only_the_latest_conversations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_delta, "_CONVERSATIONS", 3)
    sender, receiver = Sender(shortest=2), Receiver()
    for content in "abcdb":
        sent(sender, receiver, {"messages": said(content, "x")})
    assert [known.stem[-3:-2] for known in sender._known] == [b"b", b"d", b"c"]
    assert len(receiver._kept) == 3


def test_what_is_no_json_leaves_both_ends_as_they_were() -> None:
    sender, receiver = Sender(shortest=2), Receiver()
    sent(sender, receiver, {"messages": said("a", "b")})
    for messages, tools in ((said("a", "\ud800"), []), (said("a", "b", "c"), [object()])):
        with pytest.raises(TypeError):
            sender.packed({"messages": messages, "tools": tools})
    assert sent(sender, receiver, {"messages": said("a", "b", "c")}) == ({"messages": said("a", "b", "c")}, 2)


def test_ends_that_do_not_remember_the_same_are_noticed() -> None:
    sender = Sender(shortest=2)
    sent(sender, Receiver(), {"messages": said("a", "b")})
    with pytest.raises(KeyError):
        sent(sender, Receiver(), {"messages": said("a", "b")})
