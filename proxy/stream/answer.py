"""One client's answer: an identity that never changes, and what may still happen when the child breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from proxy.stream import sse


class AnswerPhase(IntEnum):
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
    phase: AnswerPhase = AnswerPhase.NOTHING
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

    def reach(self, phase: AnswerPhase) -> None:
        """The client is now at least this far."""
        self.phase = max(self.phase, phase)

    @property
    def path(self) -> str:
        """Where the child serves it."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"
