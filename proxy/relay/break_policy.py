"""Pure. What follows from a failed attempt: a replay, a retry alone, or the end of the answer."""

from __future__ import annotations

from enum import StrEnum

from proxy.stream.answer import Answer, AnswerPhase
from proxy.upstream.broken import BreakKind

#: A request is replayed this often after deaths of the child.
_MAX_REPLAYS = 2


class BreakVerdict(StrEnum):
    """What becomes of a request whose attempt failed."""

    REPLAY = "replay"
    RETRY = "retry"  # once more, alone: the child lives, and lacked memory
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    INVALID = "invalid"
    ASK_AGAIN = "ask_again"  # once more, for another sample: its tool call could not be read
    CALL_UNREADABLE = "call_unreadable"  # the answer ends with what was sent of it, and says so


def judge_break(
    answer: Answer,
    how: BreakKind,
    *,
    dead: bool,
    short_of_memory: bool = False,
    choked: bool = False,
    asked_again: bool = False,
    asked_anew: int = 0,
    retried: bool = False,
) -> BreakVerdict:
    """Decide about a failed attempt, once it is known whether the child died.

    The state of the child decides, not the status of its reply: a dead generation thread and a bad request
    both come as 404 (server.py, handle_completion).

    Args:
        short_of_memory: the child lives, but has just said that it lacks memory.
        choked: the child lives, and failed at a tool call of this answer.
        asked_again: another answer was already asked for because of a tool call.
        asked_anew: how many of the attempts were not replays: an earlier answer was not good enough.
        retried: the request was already run alone for that reason.
    """
    # 1. The request is at fault, whatever else happened since.
    if how is BreakKind.INVALID:
        return BreakVerdict.INVALID
    # 2. The child was never asked, so the attempt does not count, and only the deadline ends the request. A
    # child that is too busy to accept connections lives; its watch finds one that never will again.
    if how is BreakKind.NOT_CONNECTED:
        return BreakVerdict.REPLAY
    # 3. The gateway itself lacked what it takes to connect: that proves nothing about the child.
    if how is BreakKind.NOT_ASKED:
        return BreakVerdict.UNAVAILABLE
    # 4. The child lives, and could not read a tool call that the model wrote: another sample may be better.
    if not dead and (choked or how is BreakKind.CALL_LOST):
        again = not asked_again and answer.phase is not AnswerPhase.CONTENT
        return BreakVerdict.ASK_AGAIN if again else BreakVerdict.CALL_UNREADABLE
    # 4. The child lives, but had no memory for the request: with nothing else running there may be enough.
    if not dead and short_of_memory:
        if retried or answer.phase is AnswerPhase.CONTENT:
            return BreakVerdict.UNAVAILABLE
        return BreakVerdict.RETRY
    # 5. The child lives: this request failed, nothing is restarted, and asking again would fail again.
    if not dead:
        return BreakVerdict.INVALID if how is BreakKind.REJECTED else BreakVerdict.FAILED
    # 6. The client has seen content: another run would not continue it.
    if answer.phase is AnswerPhase.CONTENT:
        return BreakVerdict.UNAVAILABLE
    # 7. The client has seen nothing but comments: run it again, within reason.
    return BreakVerdict.REPLAY if answer.attempts - asked_anew <= _MAX_REPLAYS else BreakVerdict.UNAVAILABLE
