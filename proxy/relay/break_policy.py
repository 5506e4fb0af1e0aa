"""Pure. What follows when an answer broke: replay, error event or clean failure."""

from __future__ import annotations

from enum import StrEnum

from proxy.stream.answer import Answer, AnswerPhase
from proxy.upstream.broken import BreakKind


class BreakVerdict(StrEnum):
    """What becomes of an answer that broke."""

    REPLAY = "replay"
    RETRY = "retry"  # once more, alone: the child lives, and was short of memory
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    INVALID = "invalid"


def judge_break(
    answer: Answer,
    how: BreakKind,
    *,
    dead: bool,
    max_replays: int,
    strained: bool = False,
    retried: bool = False,
) -> BreakVerdict:
    """What to do about a broken attempt, once it is known whether the child died.

    `strained`: the child lives, but has just said that it lacks memory; `retried`: so it was before.

    The state of the child decides, not the status of its reply: a dead generation thread and a bad
    request both come as 404 (server.py, handle_completion).
    """
    # 1. The request is at fault, whatever else happened since.
    if how is BreakKind.INVALID:
        return BreakVerdict.INVALID
    # 2. Never asked, so nothing was tried: it does not count, and the deadline alone ends it. A child that is
    #    too busy to take connections lives, and one that never will again is found out by its watch.
    if how is BreakKind.NOT_CONNECTED:
        return BreakVerdict.REPLAY
    # 3. The child lives, but had no memory for it: with nothing beside it there may be enough.
    if not dead and strained:
        return (
            BreakVerdict.UNAVAILABLE if retried or answer.phase is AnswerPhase.CONTENT else BreakVerdict.RETRY
        )
    # 4. The child lives: this request failed, nothing is restarted, and asking again would fail again.
    if not dead:
        return BreakVerdict.INVALID if how is BreakKind.REJECTED else BreakVerdict.FAILED
    # 5. The client has seen content: another run would say something else after it.
    if answer.phase is AnswerPhase.CONTENT:
        return BreakVerdict.UNAVAILABLE
    # 6. Its client has seen nothing but comments: run it again, within reason.
    return BreakVerdict.REPLAY if answer.attempts <= max_replays else BreakVerdict.UNAVAILABLE
