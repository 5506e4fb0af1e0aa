"""Pure. The answer's form of the chat and completions APIs, which the child itself speaks."""

from __future__ import annotations

from proxy.dialects.translation import Translation
from proxy.errors import GatewayError
from proxy.request.completion import CompletionRequest
from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.rewrite import Rewriter


class ChatForm:
    """How one answer is written: a `form.AnswerForm`. Events keep the child's content and change identity."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        self._answer = answer
        self._include_usage = include_usage

    def opening(self) -> bytes:
        return b""

    def writer(self) -> Rewriter:
        return Rewriter(self._answer, include_usage=self._include_usage)

    def keepalive(self, comment: str, *, empty_event: bool) -> bytes:
        return self._answer.empty_event() if empty_event else sse.comment(comment)

    def failure(self, error: GatewayError) -> bytes:
        """The error object in an event of its own: a failure never looks like a normal end."""
        return sse.event(error.body()) + sse.DONE + sse.END

    def whole(self, body: bytes) -> bytes:
        return body


def untranslated(request: CompletionRequest) -> Translation:
    """A request of the child's own APIs, as the journey takes those of all dialects."""

    def form(answer: Answer, _: int) -> ChatForm:
        return ChatForm(answer, include_usage=request.include_usage)

    return Translation(request, form)
