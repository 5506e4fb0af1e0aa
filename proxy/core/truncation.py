"""Where a conversation may be cut: whole turns only.

A *turn* begins with a user's message (several in a row are one beginning) and runs to the next: answers,
tool calls and their results stay together, and what is kept always goes from a user's message to an answer,
which is what templates that insist on alternation accept. System messages at the start and the last turn
are never dropped.

Cuts are allowed at block borders only: fixed places of the conversation, about `block` bytes apart. A
growing session keeps the same cut, and so the same prefix in the server's cache, until it must move by a
block; a cut that always sat at the limit would move, and miss the cache, at every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import orjson

from proxy.core.messages import Message

Turn = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """`lead`: the system messages at the start. `turns`: all that follows, in order."""

    lead: Turn
    turns: tuple[Turn, ...]

    def head(self, turns: int) -> tuple[Message, ...]:
        """The messages up to the end of the first `turns` turns."""
        return tuple(chain(self.lead, *self.turns[:turns]))

    def without(self, kept: int, cut: int) -> tuple[Message, ...]:
        """The messages without the turns from `kept` up to, not including, `cut`."""
        return tuple(chain(self.lead, *self.turns[:kept], *self.turns[cut:]))


def split(messages: Sequence[Message]) -> Conversation:
    """Messages that come before the first user's are a turn of their own."""
    start = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    turns: list[list[Message]] = []
    before = "system"
    for message in messages[start:]:
        if not turns or (message["role"] == "user" and before != "user"):
            turns.append([])
        turns[-1].append(message)
        before = message["role"]
    return Conversation(tuple(messages[:start]), tuple(map(tuple, turns)))


def cuts(conversation: Conversation, kept: int, block: int) -> list[int]:
    """Turns at which what stays may go on after the first `kept` turns: ascending, the last turn last.

    A turn qualifies if a multiple of `block` bytes of the conversation (as JSON) lies in the turn before it.
    That depends on the messages before the cut alone, so the places stay as the conversation grows.
    """
    last = len(conversation.turns) - 1
    ends = list(accumulate(len(orjson.dumps(turn)) for turn in conversation.turns[:-1]))
    blocks = [0, *(end // block for end in ends)]  # before each turn
    return [turn for turn in range(kept + 1, last + 1) if turn == last or blocks[turn] > blocks[turn - 1]]
