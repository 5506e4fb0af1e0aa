from __future__ import annotations

from typing import Any

import pytest

from proxy.core.truncation import Conversation, cuts, split


def said(*script: str) -> tuple[dict[str, Any], ...]:
    """`s`ystem, `u`ser, `a`ssistant, `t`ool, with what they say after a colon."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return tuple({"role": roles[line[0]], "content": line[2:]} for line in script)


def spoken(messages: tuple[dict[str, Any], ...]) -> str:
    return " ".join(message["role"][0] + message["content"] for message in messages)


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
    ],
)
def test_turns_begin_with_a_user(script: str, turns: list[str]) -> None:
    messages = said(*script.split())
    conversation = split(messages)
    assert [spoken(turn) for turn in conversation.turns] == turns
    assert conversation.without(0, 0) == messages


def test_what_is_left_without_some_turns() -> None:
    conversation = split(said("s:0", "u:1", "a:1", "u:2", "a:2", "u:3", "a:3", "u:4"))
    assert spoken(conversation.head(1)) == "s0 u1 a1"
    assert spoken(conversation.without(1, 3)) == "s0 u1 a1 u4"
    assert spoken(conversation.without(0, 2)) == "s0 u3 a3 u4"


def dialogue(turns: int, size: int = 100) -> Conversation:
    """Turns of `size` bytes of JSON each."""
    bare = len('[{"role":"user","content":""},{"role":"assistant","content":""}]')
    text = "x" * (size - bare)
    return split([m for _ in range(turns) for m in said(f"u:{text}", "a:")])


@pytest.mark.parametrize(
    ("turns", "kept", "block", "expected"),
    [
        (5, 0, 1, [1, 2, 3, 4]),
        (5, 0, 100, [1, 2, 3, 4]),
        (10, 0, 300, [3, 6, 9]),
        (11, 0, 300, [3, 6, 9, 10]),
        (11, 4, 300, [6, 9, 10]),
        (11, 9, 300, [10]),
        (11, 10, 300, []),
        (11, 11, 300, []),
        (5, 0, 10**9, [4]),
        (1, 0, 1, []),
        (0, 0, 1, []),
    ],
)
def test_cuts_are_blocks_apart_and_spare_the_last_turn(
    turns: int, kept: int, block: int, expected: list[int]
) -> None:
    assert cuts(dialogue(turns), kept, block) == expected


def test_cuts_stay_where_they_are_as_a_conversation_grows() -> None:
    for turns in range(2, 60):
        before, after = cuts(dialogue(turns), 0, 700), cuts(dialogue(turns + 1), 0, 700)
        assert before[:-1] == after[: len(before) - 1]
