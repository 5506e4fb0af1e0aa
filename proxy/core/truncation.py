"""Where a conversation may be cut, and what it is then: whole turns, then rounds, then old tool results.

A *turn* begins with a user's message (several in a row are one beginning) and runs to the next: answers,
tool calls and their results stay together, and what is kept always goes from a user's message to an answer,
which is what templates that insist on alternation accept. A *round* is an assistant's message in the last
turn with the results of its calls: an agent's task is one turn of very many. System messages at the start,
the last user's messages and the last round are never dropped.

Cuts are allowed at block borders only: fixed places of the conversation, about `block` bytes apart. A
growing session keeps the same cut, and so the same prefix in the server's cache, until it must move by a
block; a cut that always sat at the limit would move, and miss the cache, at every turn. For the same reason
the model is told of the cut in words that never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise

import orjson

from proxy.core.messages import Message

#: Stands in front of the first user's message after the gap.
NOTE = "[Earlier parts of this conversation were left out because it grew too long.]\n\n"
#: Stands where the middle of a tool result was.
ELLIPSIS = "\n[... the middle of this output was left out ...]\n"
#: Old tool results are shortened to so many characters, the first that does. Halves: few moves.
_LENGTHS = tuple(2**power for power in range(16, 8, -1))


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the conversation goes on after the kept turns, and what else is left out of it.

    `turn`: first turn after the gap. `rounds`: so many go from the start of the last turn (then `turn` is the
    last). `longest`: characters of a tool result before the last round; None: any. `told`: with the note.
    """

    turn: int
    rounds: int = 0
    longest: int | None = None
    told: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """Ranges of indexes. `lead`: the system messages at the start. `turns`: all that follows, in order.

    `opening` and `rounds` are the last turn: its user's messages, and the rounds after them.
    """

    messages: Sequence[Message]
    lead: range
    turns: tuple[range, ...]
    opening: range
    rounds: tuple[range, ...]

    def head(self, turns: int) -> tuple[Message, ...]:
        """The messages up to the end of the first `turns` turns."""
        return tuple(self.messages[: self.turns[turns - 1].stop if turns else self.lead.stop])

    def positions(self, kept: int, cut: Cut) -> tuple[int, ...]:
        """Which messages stay, where the first `kept` turns do."""
        parts = (self.lead, *self.turns[:kept], *self.turns[cut.turn :])
        gone = set(chain(*self.rounds[: cut.rounds]))
        return tuple(index for index in chain(*parts) if index not in gone)

    def shortened(self, kept: int, cut: Cut) -> tuple[Message, ...]:
        """The messages that stay, with the note, and with their old tool results shortened."""
        gap = cut.turn > kept or cut.rounds > 0
        told = self.turns[cut.turn].start if gap and cut.told else None
        old = self.rounds[-1].start if self.rounds else len(self.messages)
        return tuple(
            _noted(self.messages[index])
            if index == told
            else _trimmed(self.messages[index], cut.longest if index < old else None)
            for index in self.positions(kept, cut)
        )


def _noted(message: Message) -> Message:
    content = message["content"]
    if type(content) is list:  # with images
        return {**message, "content": [{"type": "text", "text": NOTE}, *content]}
    return {**message, "content": NOTE + content}


def _trimmed(message: Message, longest: int | None) -> Message:
    text = message["content"]
    if longest is None or message["role"] != "tool" or type(text) is list or len(text) <= longest:
        return message
    kept = longest - len(ELLIPSIS)
    return {**message, "content": text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]}


def split(messages: Sequence[Message]) -> Conversation:
    """Messages that come before the first user's are a turn of their own."""
    roles = [message["role"] for message in messages]
    start = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    begins = (
        index
        for index in range(start, len(roles))
        if index == start or (roles[index] == "user" and roles[index - 1] != "user")
    )
    turns = tuple(_ranges(begins, len(roles)))
    last = turns[-1] if turns else range(start, start)
    answered = next((index for index in last if roles[index] != "user"), last.stop)
    # A turn that no user began is one piece: nothing could tell where it went on.
    asks = [i for i in range(answered, last.stop) if i == answered or roles[i] == "assistant"]
    rounds = tuple(_ranges(asks, last.stop)) if answered > last.start else ()
    return Conversation(messages, range(start), turns, range(last.start, answered), rounds)


def _ranges(begins: Iterator[int] | list[int], end: int) -> Iterator[range]:
    return (range(start, stop) for start, stop in pairwise([*begins, end]))


def cuts(conversation: Conversation, kept: int, block: int, *, trim: bool = False) -> list[Cut]:
    """Every cut that leaves the first `kept` turns, the mildest first.

    Whole turns go first. Then, with `trim`, old tool results get shorter, and last of all rounds go. Where
    even that leaves no room for the note, it is left out too.
    """
    last = len(conversation.turns) - 1
    if kept > last:
        return []
    turns = _borders(conversation.messages, conversation.turns, block)
    milder = [Cut(turn) for turn in turns if turn > kept]
    trims = [Cut(last, longest=longest) for longest in _LENGTHS] if trim else []
    longest = _LENGTHS[-1] if trim else None
    rounds = _borders(conversation.messages, conversation.rounds, block) if conversation.rounds else []
    found = [*milder, *trims, *(Cut(last, done, longest) for done in rounds)]
    return [*found, replace(found[-1], told=False)] if found else []


def _borders(messages: Sequence[Message], parts: Sequence[range], block: int) -> list[int]:
    """Parts before which a cut may be: the last, and any after one that holds a multiple of `block` bytes.

    Bytes are those of the parts as JSON. A place depends on what is before it, so it stays where it is while
    the conversation grows.
    """
    last = len(parts) - 1
    sizes = (sum(len(orjson.dumps(messages[index])) for index in part) for part in parts[:-1])
    blocks = [0, *(end // block for end in accumulate(sizes))]
    return [part for part in range(1, last + 1) if part == last or blocks[part] > blocks[part - 1]]
