"""Where a conversation may be cut, and what it is then: whole turns, then old tool results, then rounds.

A *turn* begins with a user's message (several in a row are one beginning) and runs to the next: answers,
tool calls and their results stay together, and what is kept always goes from a user's message to an answer,
which is what templates that insist on alternation accept. A *round* is an assistant's message in the last
turn with the results of its calls: an agent's task is one turn of very many. System messages at the start,
the last user's messages and the last round are never dropped, nor is the *head*: the first messages, as many
as the caller wants kept, which ends after a user's message or a round.

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

from proxy.request.messages import Message

#: Stands in front of the first user's message after the gap.
NOTE = "[Earlier parts of this conversation were left out because it grew too long.]\n\n"
#: Stands behind the last user's message where the gap is after that.
NOTE_BEHIND = "\n\n[Earlier parts of this conversation were left out because it grew too long.]"
#: Stands where the middle of a tool result was.
ELLIPSIS = "\n[... the middle of this output was left out ...]\n"
#: Old tool results are shortened to so many characters, the first that does. Halves: few moves.
_LENGTHS = tuple(2**power for power in range(16, 8, -1))


@dataclass(frozen=True, slots=True)
class Truncation:
    """Where the conversation goes on after its head, and what else is left out of it.

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

    `opening` and `rounds` are the last turn: its user's messages, and the rounds after them. `ends`: how many
    messages a head may have, from the lead alone to all of them.
    """

    messages: Sequence[Message]
    lead: range
    turns: tuple[range, ...]
    opening: range
    rounds: tuple[range, ...]
    ends: tuple[int, ...]

    def turn_end(self, head: int) -> int:
        """Where the turn ends that the head ends in."""
        return next((turn.stop for turn in self.turns if turn.start < head <= turn.stop), head)

    def positions(self, head: int, cut: Truncation) -> tuple[int, ...]:
        """Which messages stay, where the first `head` messages do."""
        start = self.turns[cut.turn].start
        gone = set(chain(*self.rounds[: cut.rounds]))
        stay = (index for index in range(start, len(self.messages)) if index not in gone)
        return (*range(head), *(index for index in stay if index >= head))

    def shortened(self, head: int, cut: Truncation) -> tuple[Message, ...]:
        """The messages that stay, with the note, and with their old tool results shortened."""
        stay = self.positions(head, cut)
        old = range(head, self.rounds[-1].start if self.rounds else len(self.messages))
        left = [_trimmed(self.messages[i], cut.longest if i in old else None) for i in stay]
        if cut.told and len(stay) < len(self.messages):
            before = head < self.opening.stop  # else the gap is after all that the user has said
            told = max(head, self.turns[cut.turn].start) if before else self.opening.stop - 1
            left[stay.index(told)] = _noted(self.messages[told], before=before)
        return tuple(left)


def _noted(message: Message, *, before: bool) -> Message:
    content = message["content"]
    if type(content) is list:  # with images
        note = [{"type": "text", "text": NOTE if before else NOTE_BEHIND}]
        return {**message, "content": [*note, *content] if before else [*content, *note]}
    return {**message, "content": NOTE + content if before else content + NOTE_BEHIND}


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
    opening: range = range(start, start)
    rounds: tuple[range, ...] = ()
    ends = [start]
    for turn in turns:
        opening, rounds = _parted(roles, turn)
        ends += [*(index + 1 for index in opening), *(part.stop for part in rounds or (turn,))]
    return Conversation(messages, range(start), turns, opening, rounds, tuple(dict.fromkeys(ends)))


def _parted(roles: Sequence[str], turn: range) -> tuple[range, tuple[range, ...]]:
    """The user's messages of a turn, and the rounds after them.

    A turn that no user began is one piece: nothing could tell where it went on.
    """
    answered = next((index for index in turn if roles[index] != "user"), turn.stop)
    asks = [i for i in range(answered, turn.stop) if i == answered or roles[i] == "assistant"]
    rounds = tuple(_ranges(asks, turn.stop)) if answered > turn.start else ()
    return range(turn.start, answered), rounds


def _ranges(begins: Iterator[int] | list[int], end: int) -> Iterator[range]:
    return (range(start, stop) for start, stop in pairwise([*begins, end]))


def cuts(conversation: Conversation, head: int, block: int, *, trim: bool = False) -> list[Truncation]:
    """Every cut that leaves the first `head` messages, the mildest first.

    Whole turns go first. Then, with `trim`, old tool results get shorter, and last of all rounds go. Where
    even that leaves no room for the note, it is left out too.
    """
    turns, rounds = conversation.turns, conversation.rounds
    if not turns or head >= len(conversation.messages):
        return []
    last = len(turns) - 1
    borders = _borders(conversation.messages, turns, block)
    milder = [Truncation(turn) for turn in borders if turns[turn].start > head]
    trims = [Truncation(last, longest=longest) for longest in _LENGTHS] if trim else []
    longest = _LENGTHS[-1] if trim else None
    places = _borders(conversation.messages, rounds, block) if rounds else []
    deeper = [Truncation(last, done, longest) for done in places if rounds[done].start > head]
    found = [*milder, *trims, *deeper]
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
