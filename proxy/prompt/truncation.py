"""Pure. Where a conversation may be cut: first whole turns, then old tool results, then rounds.

A *turn* begins with a user message (several in a row are one beginning) and extends to the next one, so
answers, tool calls and their results stay together. What is kept always goes from a user message to an
answer, which templates that insist on alternation accept. A *round* is an assistant message in the last turn
with the results of its calls: an agent's task is one turn of very many. System messages at the start, the
last user messages and the last round are never dropped. Neither is the *head*: the first messages, as many as
the caller wants to keep, up to the end of a user message or a round.

Cuts are allowed at block borders only: fixed places of the conversation, about `block` bytes apart. So a
growing session keeps the same cut, and the same prefix in the server's cache, until the cut must move by a
block. A cut that was always at the limit would move, and miss the cache, at every turn. For the same reason
the note that tells the model of the cut never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise

import orjson

from proxy.request.messages import Message

#: Precedes the first user message after the gap.
NOTE = "[Earlier parts of this conversation were left out because it grew too long.]\n\n"
#: Follows the last user message, if the gap is after it.
NOTE_BEHIND = "\n\n[Earlier parts of this conversation were left out because it grew too long.]"
#: Replaces the middle of a tool result.
ELLIPSIS = "\n[... the middle of this output was left out ...]\n"
#: Lengths in characters to which old tool results are shortened; the first that suffices. They halve, so that
#: the cut moves rarely.
_LENGTHS = tuple(2**power for power in range(16, 8, -1))


@dataclass(frozen=True, slots=True)
class Truncation:
    """One way to cut a conversation after its head.

    Attributes:
        turn: index of the first turn after the gap.
        rounds: number of rounds dropped from the start of the last turn (then `turn` is the last).
        longest: characters to which tool results before the last round are shortened; None: not shortened.
        noted: whether a note tells the model of the gap.
    """

    turn: int
    rounds: int = 0
    longest: int | None = None
    noted: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """The parts of a conversation, as ranges of message indexes.

    Attributes:
        lead: the system messages at the start.
        turns: all that follows, in order.
        opening: the user messages of the last turn.
        rounds: the rounds of the last turn.
        ends: possible lengths of a head, from the lead alone to all messages.
    """

    messages: Sequence[Message]
    lead: range
    turns: tuple[range, ...]
    opening: range
    rounds: tuple[range, ...]
    ends: tuple[int, ...]

    def turn_end(self, head: int) -> int:
        """The end of the turn in which the first `head` messages end."""
        return next((turn.stop for turn in self.turns if turn.start < head <= turn.stop), head)

    def positions(self, head: int, cut: Truncation) -> tuple[int, ...]:
        """Indexes of the messages that remain after the cut; the first `head` messages always do."""
        start = self.turns[cut.turn].start
        dropped = set(chain(*self.rounds[: cut.rounds]))
        kept = (index for index in range(start, len(self.messages)) if index not in dropped)
        return (*range(head), *(index for index in kept if index >= head))

    def shortened(self, head: int, cut: Truncation) -> tuple[Message, ...]:
        """The messages that remain, with the note, and with old tool results shortened."""
        kept = self.positions(head, cut)
        old = range(head, self.rounds[-1].start if self.rounds else len(self.messages))
        remaining = [_trimmed(self.messages[i], cut.longest if i in old else None) for i in kept]
        if cut.noted and len(kept) < len(self.messages):
            before = head < self.opening.stop  # else the gap is after all user messages
            noted = max(head, self.turns[cut.turn].start) if before else self.opening.stop - 1
            remaining[kept.index(noted)] = _noted(self.messages[noted], before=before)
        return tuple(remaining)


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
    size = longest - len(ELLIPSIS)
    return {**message, "content": text[: size - size // 2] + ELLIPSIS + text[len(text) - size // 2 :]}


def split(messages: Sequence[Message]) -> Conversation:
    """Find the parts of a conversation. Messages before the first user message are a turn of their own."""
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
    """The user messages of a turn, and the rounds after them.

    A turn that does not begin with a user message has no rounds: there is no message that could carry the
    note.
    """
    answered = next((index for index in turn if roles[index] != "user"), turn.stop)
    asks = [i for i in range(answered, turn.stop) if i == answered or roles[i] == "assistant"]
    rounds = tuple(_ranges(asks, turn.stop)) if answered > turn.start else ()
    return range(turn.start, answered), rounds


def _ranges(begins: Iterator[int] | list[int], end: int) -> Iterator[range]:
    return (range(start, stop) for start, stop in pairwise([*begins, end]))


def cuts(conversation: Conversation, head: int, block: int, *, trim: bool = False) -> list[Truncation]:
    """Every cut that keeps the first `head` messages, the mildest first.

    First whole turns are dropped, then, with `trim`, old tool results are shortened, and finally rounds are
    dropped. The last cut also omits the note.
    """
    turns, rounds = conversation.turns, conversation.rounds
    if not turns or head >= len(conversation.messages):
        return []
    last = len(turns) - 1
    borders = _borders(conversation.messages, turns, block)
    milder = [Truncation(turn) for turn in borders if turns[turn].start > head]
    trims = [Truncation(last, longest=longest) for longest in _LENGTHS] if trim else []
    longest = _LENGTHS[-1] if trim else None
    round_borders = _borders(conversation.messages, rounds, block) if rounds else []
    deeper = [Truncation(last, count, longest) for count in round_borders if rounds[count].start > head]
    found = [*milder, *trims, *deeper]
    return [*found, replace(found[-1], noted=False)] if found else []


def _borders(messages: Sequence[Message], parts: Sequence[range], block: int) -> list[int]:
    """Indexes of parts before which a cut may be: the last, and those behind a multiple of `block` bytes.

    Bytes are those of the parts as JSON. A border depends only on what is before it, so it does not move
    while the conversation grows.
    """
    last = len(parts) - 1
    sizes = (sum(len(orjson.dumps(messages[index])) for index in part) for part in parts[:-1])
    blocks = [0, *(end // block for end in accumulate(sizes))]
    return [part for part in range(1, last + 1) if part == last or blocks[part] > blocks[part - 1]]
