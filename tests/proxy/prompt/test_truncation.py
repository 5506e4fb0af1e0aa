from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from proxy.prompt.truncation import ELLIPSIS, NOTE, NOTE_BEHIND, Conversation, Truncation, cuts, split


def said(*script: str) -> tuple[dict[str, Any], ...]:
    """`s`ystem, `u`ser, `a`ssistant, `t`ool, with what they say after a colon."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return tuple({"role": roles[line[0]], "content": line[2:]} for line in script)


def spoken(messages: Sequence[dict[str, Any]]) -> str:
    """The script again, with N for the note."""
    said = " ".join(message["role"][0] + message["content"] for message in messages)
    return said.replace(NOTE, "N").replace(NOTE_BEHIND, "N")


def parts(conversation: Conversation, ranges: tuple[range, ...]) -> list[str]:
    return [spoken([conversation.messages[i] for i in part]) for part in ranges]


@pytest.mark.parametrize(
    ("script", "turns"),
    [
        ("s:1 u:2", ["u2"]),
        ("s:1 s:2 u:3 a:4 u:5", ["u3 a4", "u5"]),
        ("u:1 a:2 t:3 t:4 a:5 u:6 a:7 t:8", ["u1 a2 t3 t4 a5", "u6 a7 t8"]),
        ("u:1 u:2 a:3 u:4 u:5", ["u1 u2 a3", "u4 u5"]),
        ("s:1 a:2 u:3 a:4", ["a2", "u3 a4"]),
        ("u:1 a:2 s:3 u:4", ["u1 a2 s3", "u4"]),
        ("a:1 t:2", ["a1 t2"]),
        ("s:1", []),
        ("", []),
    ],
)
def test_turns_begin_with_a_user(script: str, turns: list[str]) -> None:
    conversation = split(said(*script.split()))
    assert parts(conversation, conversation.turns) == turns


@pytest.mark.parametrize(
    ("script", "opening", "rounds"),
    [
        ("u:1 a:2 u:3 u:4 a:5 t:6 t:7 a:8 a:9 t:0", "u3 u4", ["a5 t6 t7", "a8", "a9 t0"]),
        ("u:1 t:2 a:3", "u1", ["t2", "a3"]),  # a result without its call is a round of its own
        ("u:1", "u1", []),
        ("a:1 t:2 a:3", "", []),
        ("s:1", "", []),
    ],
)
def test_the_last_turn_has_rounds(script: str, opening: str, rounds: list[str]) -> None:
    conversation = split(said(*script.split()))
    assert parts(conversation, (conversation.opening,)) == [opening]
    assert parts(conversation, conversation.rounds) == rounds


@pytest.mark.parametrize(
    ("head", "cut", "expected"),
    [
        (1, Truncation(0), "s0 u1 a1 u2 a2 u3 a3 t3 a4 t4"),
        (1, Truncation(1), "s0 uN2 a2 u3 a3 t3 a4 t4"),
        (1, Truncation(2), "s0 uN3 a3 t3 a4 t4"),
        (2, Truncation(2), "s0 u1 uN3 a3 t3 a4 t4"),
        (3, Truncation(2), "s0 u1 a1 uN3 a3 t3 a4 t4"),
        (1, Truncation(2, rounds=1), "s0 uN3 a4 t4"),
        (5, Truncation(2, rounds=1), "s0 u1 a1 u2 a2 uN3 a4 t4"),
        (6, Truncation(2, rounds=1), "s0 u1 a1 u2 a2 u3N a4 t4"),
        (1, Truncation(2, rounds=1, noted=False), "s0 u3 a4 t4"),
        (5, Truncation(2, longest=99), "s0 u1 a1 u2 a2 u3 a3 t3 a4 t4"),
    ],
)
def test_what_is_left(head: int, cut: Truncation, expected: str) -> None:
    messages = said("s:0", "u:1", "a:1", "u:2", "a:2", "u:3", "a:3", "t:3", "a:4", "t:4")
    conversation = split(messages)
    left = conversation.shortened(head, cut)
    assert spoken(left) == expected
    positions = conversation.positions(head, cut)
    assert [m["role"] for m in left] == [messages[i]["role"] for i in positions]
    assert spoken(messages) == "s0 u1 a1 u2 a2 u3 a3 t3 a4 t4", "the request itself is not changed"


@pytest.mark.parametrize(
    ("script", "heads"),
    [
        ("s:0 u:1 a:1 u:2", ["s0", "u1", "a1", "u2"]),
        ("u:1 u:2 a:3 t:3 t:3 a:4 u:5", ["", "u1", "u2", "a3 t3 t3", "a4", "u5"]),
        ("s:0 a:1 t:1 a:2 u:3", ["s0", "a1 t1 a2", "u3"]),
        ("s:0", ["s0"]),
    ],
)
def test_a_head_ends_after_whole_messages_and_no_call_without_its_results(
    script: str, heads: list[str]
) -> None:
    conversation = split(said(*script.split()))
    starts = [0, *conversation.ends]
    found = [spoken(conversation.messages[a:b]) for a, b in pairwise(starts)]
    assert found == heads


def test_the_turn_that_a_head_ends_in() -> None:
    conversation = split(said("s:0", "u:1", "a:1", "t:1", "a:1", "u:2", "a:2"))
    assert [conversation.turn_end(end) for end in conversation.ends] == [1, 5, 5, 5, 7, 7]


def test_the_last_round_is_the_last_that_a_head_leaves_to_be_cut() -> None:
    conversation = split(said("u:1", "a:1", "u:2", "a:2", "a:3", "t:3", "a:4", "t:4"))
    shorter = {
        end: [spoken(conversation.shortened(end, cut)) for cut in cuts(conversation, end, 1)]
        for end in conversation.ends
    }
    assert shorter == {
        0: [
            "uN2 a2 a3 t3 a4 t4",
            "uN2 a3 t3 a4 t4",
            "uN2 a4 t4",
            "u2 a4 t4",
        ],
        1: [
            "u1 uN2 a2 a3 t3 a4 t4",
            "u1 uN2 a3 t3 a4 t4",
            "u1 uN2 a4 t4",
            "u1 u2 a4 t4",
        ],
        2: ["u1 a1 uN2 a3 t3 a4 t4", "u1 a1 uN2 a4 t4", "u1 a1 u2 a4 t4"],
        3: ["u1 a1 u2N a3 t3 a4 t4", "u1 a1 u2N a4 t4", "u1 a1 u2 a4 t4"],
        4: ["u1 a1 u2N a2 a4 t4", "u1 a1 u2 a2 a4 t4"],
        6: [],
        8: [],
    }


def test_old_tool_results_lose_their_middle() -> None:
    long = "".join(chr(ord("a") + i % 26) for i in range(3000))
    messages = said(f"u:{long}", f"a:{long}", f"t:{long}", "t:short", "a:2", f"t:{long}")
    conversation = split(messages)
    for longest in (1024, 513, 512):
        left = conversation.shortened(0, Truncation(0, longest=longest))
        assert [len(m["content"]) for m in left] == [3000, 3000, longest, 5, 1, 3000]
        start, end = left[2]["content"].split(ELLIPSIS)
        assert long.startswith(start) and long.endswith(end) and 0 <= len(start) - len(end) <= 1
        assert conversation.shortened(3, Truncation(0, longest=longest)) == messages, (
            "the head stays as it is"
        )
        again = split(left)
        assert again.shortened(0, Truncation(0, longest=longest)) == left


def dialogue(turns: int, size: int = 100) -> Conversation:
    """Turns of `size` bytes of JSON each."""
    bare = len('{"role":"user","content":""}{"role":"assistant","content":""}')
    text = "x" * (size - bare)
    return split([m for _ in range(turns) for m in said(f"u:{text}", "a:")])


@pytest.mark.parametrize(
    ("turns", "head", "block", "expected"),
    [
        (5, 0, 1, [1, 2, 3, 4]),
        (5, 0, 100, [1, 2, 3, 4]),
        (10, 0, 300, [3, 6, 9]),
        (11, 0, 300, [3, 6, 9, 10]),
        (11, 8, 300, [6, 9, 10]),
        (11, 12, 300, [9, 10]),
        (11, 13, 300, [9, 10]),
        (11, 18, 300, [10]),
        (11, 20, 300, []),
        (11, 22, 300, []),
        (5, 0, 10**9, [4]),
        (1, 0, 1, []),
        (0, 0, 1, []),
    ],
)
def test_cuts_are_blocks_apart_and_spare_the_last_turn(
    turns: int, head: int, block: int, expected: list[int]
) -> None:
    found = cuts(dialogue(turns), head, block)
    assert found[:-1] == [Truncation(turn) for turn in expected]
    assert found[-1:] == [Truncation(turn, noted=False) for turn in expected[-1:]]


def test_the_mildest_cut_comes_first() -> None:
    conversation = split(said(*["u:1", "a:1", "u:2", "a:2", "t:2", "a:3", "t:3", "a:4", "t:4"]))
    assert cuts(conversation, 0, 1) == [
        Truncation(1),
        Truncation(1, 1),
        Truncation(1, 2),
        Truncation(1, 2, noted=False),
    ]
    assert cuts(conversation, 2, 1) == [Truncation(1, 1), Truncation(1, 2), Truncation(1, 2, noted=False)]
    assert cuts(conversation, 7, 1) == []
    *trimmed, _ = cuts(conversation, 0, 1, trim=True)
    assert trimmed[0] == Truncation(1)
    lengths = [cut.longest for cut in trimmed[1:-2]]
    assert lengths == sorted(lengths, key=lambda longest: -(longest or 0))
    assert trimmed[-2:] == [Truncation(1, 1, lengths[-1]), Truncation(1, 2, lengths[-1])]


def test_cuts_stay_where_they_are_as_a_conversation_grows() -> None:
    for turns in range(2, 60):
        before, after = cuts(dialogue(turns), 0, 700), cuts(dialogue(turns + 1), 0, 700)
        assert before[:-2] == after[: len(before) - 2]


def test_messages_with_images_keep_their_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [*said("u:1", "a:2"), {"role": "user", "content": [image]}, *said("a:3")]
    messages += [{"role": "tool", "content": [image]}, *said("a:4")]
    left = split(messages).shortened(0, Truncation(1, longest=1))
    assert left[0]["content"] == [{"type": "text", "text": NOTE}, image]
    assert left[2]["content"] == [image]
