"""Where the server cuts a prompt; the ids themselves are compared with the server's in test_foresight.py."""

from __future__ import annotations

import pytest

from proxy.child_ids import Cut, kept, system_messages


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


def test_system_messages_at_the_start() -> None:
    system, user = {"role": "system", "content": "a"}, {"role": "user", "content": "b"}
    assert system_messages([system, system, user, system]) == [system, system]
    assert system_messages([user]) == []
    assert system_messages([system]) == [system]
