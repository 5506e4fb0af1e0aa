"""One client's answer: an identity that never changes, and what may still happen when the child breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum, auto
from typing import Any

from proxy.core import sse


class Phase(IntEnum):
    """How far the client is into its answer; only ever forward."""

    NOTHING = 0
    HEADERS = 1
    CONTENT = 2


@dataclass(slots=True)
class Answer:
    """What one client gets, constant over keep-alives and replays.

    Attributes:
        id: `chatcmpl-...` or `cmpl-...`, as the child itself would name it.
        created: Unix time in whole seconds.
        model: the served name, whatever the client called it.
        attempts: how often the child was asked so far.
    """

    id: str
    created: int
    model: str
    is_chat: bool
    phase: Phase = Phase.NOTHING
    attempts: int = 0

    @classmethod
    def new(cls, *, unique: str, created: int, model: str, is_chat: bool) -> Answer:
        """A fresh answer; `unique` is a random part for its id, as `str(uuid.uuid4())`."""
        prefix = "chatcmpl" if is_chat else "cmpl"
        return cls(id=f"{prefix}-{unique}", created=created, model=model, is_chat=is_chat)

    def identity(self, *, streamed: bool) -> dict[str, Any]:
        """The fields of ours that replace the child's in every event or body."""
        chat_object = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": chat_object if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def empty_event(self) -> bytes:
        """An event without content: feeds the timers of clients that count parsed chunks, not bytes."""
        part: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        choice = {"index": 0, **part, "finish_reason": None}
        return sse.event({**self.identity(streamed=True), "choices": [choice]})

    def reach(self, phase: Phase) -> None:
        """The client is now at least this far."""
        self.phase = max(self.phase, phase)

    @property
    def path(self) -> str:
        """Where the child serves it."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"


class Break(Enum):
    """How an attempt ended without a complete answer."""

    NOT_CONNECTED = auto()  # the request never reached the child
    CUT = auto()  # the answer stopped, or none came
    INVALID = auto()  # the child refused the request before it gave it to the model
    REJECTED = auto()  # the child answered with an error that can mean either
    ENDED = auto()  # by ourselves, before the child ran out of memory


class Verdict(StrEnum):
    """What becomes of an answer that broke."""

    REPLAY = "replay"
    RETRY = "retry"  # once more, alone: the child lives, and was short of memory
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    INVALID = "invalid"


def judge_break(
    answer: Answer, how: Break, *, dead: bool, max_replays: int, strained: bool = False, retried: bool = False
) -> Verdict:
    """What to do about a broken attempt, once it is known whether the child died.

    `strained`: the child lives, but has just said that it lacks memory; `retried`: so it was before.

    The state of the child decides, not the status of its reply: a dead generation thread and a bad
    request both come as 404 (server.py, handle_completion).
    """
    # 1. The request is at fault, whatever else happened since.
    if how is Break.INVALID:
        return Verdict.INVALID
    # 2. Never asked, so nothing was tried: it does not count, and the deadline alone ends it. A child that is
    #    too busy to take connections lives, and one that never will again is found out by its watch.
    if how is Break.NOT_CONNECTED:
        return Verdict.REPLAY
    # 3. The child lives, but had no memory for it: with nothing beside it there may be enough.
    if not dead and strained:
        return Verdict.UNAVAILABLE if retried or answer.phase is Phase.CONTENT else Verdict.RETRY
    # 4. The child lives: this request failed, nothing is restarted, and asking again would fail again.
    if not dead:
        return Verdict.INVALID if how is Break.REJECTED else Verdict.FAILED
    # 5. The client has seen content: another run would say something else after it.
    if answer.phase is Phase.CONTENT:
        return Verdict.UNAVAILABLE
    # 6. Its client has seen nothing but comments: run it again, within reason.
    return Verdict.REPLAY if answer.attempts <= max_replays else Verdict.UNAVAILABLE
