"""Pure. One client's answer: an identity that never changes, and how much of it the client has received."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from proxy.stream import sse


class AnswerPhase(IntEnum):
    """How much of its answer the client has received. It only grows."""

    NOTHING = 0
    HEADERS = 1
    CONTENT = 2


@dataclass(slots=True)
class Answer:
    """The answer to one client; its identity is constant over keep-alives and replays.

    Attributes:
        id: begins as its protocol has it; `chatcmpl-...` and `cmpl-...` are the forms of the child.
        created: Unix time in seconds.
        model: the served name, whatever name the client used.
        attempts: number of times the request was sent to the child so far.
    """

    id: str
    created: int
    model: str
    is_chat: bool
    phase: AnswerPhase = AnswerPhase.NOTHING
    attempts: int = 0

    @classmethod
    def new(
        cls, *, unique: str, created: int, model: str, is_chat: bool, id_prefix: str | None = None
    ) -> Answer:
        """A fresh answer; `unique` is the random part of its id, such as `str(uuid.uuid4())`.

        `id_prefix`: for a protocol that the child does not speak.
        """
        prefix = id_prefix or ("chatcmpl-" if is_chat else "cmpl-")
        return cls(id=f"{prefix}{unique}", created=created, model=model, is_chat=is_chat)

    def identity(self, *, streamed: bool) -> dict[str, Any]:
        """The fields that replace the child's own in every event or body."""
        chat_object = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": chat_object if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def empty_event(self) -> bytes:
        """An event without content, for clients whose timeouts count parsed chunks rather than bytes.

        It has a role: LangChain.js loses tool calls of a stream whose first delta has none.
        """
        part: dict[str, Any] = (
            {"delta": {"role": "assistant", "content": ""}} if self.is_chat else {"text": ""}
        )
        choice = {"index": 0, **part, "finish_reason": None}
        return sse.event({**self.identity(streamed=True), "choices": [choice]})

    def reach(self, phase: AnswerPhase) -> None:
        """Record that the client has received at least this much."""
        self.phase = max(self.phase, phase)

    @property
    def path(self) -> str:
        """The child's path for this kind of answer."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"
