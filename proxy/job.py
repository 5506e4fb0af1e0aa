"""One accepted request on its way through gate and relay, and everything that is measured about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proxy.dialects.form import AnswerForm
from proxy.errors import PromptTooLong
from proxy.prompt.fit import Fitted
from proxy.prompt.output_check import OutputCheck
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt
from proxy.request.images import image_urls
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage
from proxy.stream.tool_calls import CallMend, ToolCalls


class Stage(StrEnum):
    """The stage that a request is in."""

    WAITING = "waiting"  # in the queue
    STARTING = "starting"  # has its slot; the child is loading or restarting
    PREFILL = "prefill"
    DECODE = "decode"
    ENDED = "ended"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    INVALID = "invalid"  # the child refused the request
    UNAVAILABLE = "unavailable"  # 503, in headers or in the stream, before any content
    FAILED = "failed"  # the answer failed, the child lives
    CUT = "cut"  # the child died after content was sent
    CANCELLED = "cancelled"  # by an administrator
    STOPPED = "stopped"  # the proxy itself is stopping
    ERROR = "error"  # a bug of the gateway


@dataclass(slots=True)
class Job:
    """One accepted request. Times are monotonic seconds, durations are counted from `arrived` on.

    Attributes:
        form: how its answer is written.
        left_out: parts of its request that the model is not told of, by their names.
        outcome: final once the stage is ENDED; ERROR until then.
        client: the name of its API key, or "anonymous".
        via: the `Via` field of its request to the child.
        deadline: it waits for its slot and for the child until then; running is not limited.
        queue_s: how long it has waited for its slot, over all attempts.
        first_content_s: when the client was sent content; None if it never was.
        generation: number of the child that works on it, or did last.
        asked: when the running attempt was given to the child; None while it is on its way there.
        seen: the progress of the running attempt.
        give_up: ends the running attempt for lack of memory; None while the child has not begun to answer.
        reason: the label in metrics for an outcome other than OK.
        retried: it lacked memory once, and is run again alone.
        asked_again: its first answer had a tool call that could not be read; another sample is asked for.
        output_check: for an answer that must have a certain form.
        tool_calls: those of the running attempt.
        call_mends: what was done for the tool calls of its answer.
        predicted_bytes: memory that was reserved for it at its grant; None before.
        seen_bytes: by how much the child's memory rose while it ran; None if that is not known.
    """

    request_id: str
    request: CompletionRequest
    fitted: Fitted
    answer: Answer
    form: AnswerForm
    client: str
    arrived: float
    deadline: float
    via: str = ""
    left_out: tuple[str, ...] = ()
    stage: Stage = Stage.WAITING
    outcome: Outcome = Outcome.ERROR
    reason: str = ""
    queue_s: float = 0.0
    first_content_s: float | None = None
    total_s: float | None = None
    generation: int | None = None
    asked: float | None = None
    seen: StreamProgress | None = None
    cancelled: bool = False
    give_up: Callable[[], None] | None = None
    retried: bool = False
    asked_again: bool = False
    tool_calls: ToolCalls | None = None
    output_check: OutputCheck | None = None
    call_mends: Counter[CallMend] = field(default_factory=Counter)
    predicted_bytes: int | None = None
    seen_bytes: int | None = None
    _fingerprint: str = field(default="", init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """A hash of its prompt and sampling, computed when it is first needed."""
        self._fingerprint = self._fingerprint or self.request.fingerprint()
        return self._fingerprint

    @property
    def unstreamed(self) -> bool:
        """Whether the child is asked for one body, as it reports log probabilities only there."""
        return self.request.logprobs and not self.request.stream

    @property
    def sequential(self) -> bool:
        """Whether the child runs it outside of its batch, whatever the model (server.py, _is_batchable)."""
        return has_images(self.request.prompt) or self.request.sampling.get("seed") is not None

    @property
    def asked_anew(self) -> int:
        """How often the child was asked again because of what its answer was, not because it failed."""
        return self.asked_again + (self.output_check.unfit if self.output_check else 0)

    @property
    def usage(self) -> Usage | None:
        """Tokens as the child counted them; None until the answer is complete."""
        return self.seen.usage if self.seen else None

    @property
    def completion_tokens(self) -> int:
        """As the child counted them, or while it runs the number of events, which is nearly the same."""
        if self.usage is not None:
            return self.usage.completion_tokens
        return self.seen.events if self.seen else 0

    def was_asked(self, now: float) -> None:
        """Note that the child can have it from now on, and die of it."""
        self.asked = now

    def content_sent(self, now: float) -> None:
        """Note that content was sent, and when the first of all attempts was."""
        self.stage = Stage.DECODE
        if self.first_content_s is None:
            self.first_content_s = now - self.arrived

    def ask_again(self) -> None:
        """Let the next attempt ask for another sample."""
        self.asked_again = True
        self.call_mends[CallMend.ASKED_AGAIN] += 1
        self.request = self.request.resampled()

    def memory_rose(self, rise: int) -> None:
        """Note by how many bytes the child's memory has risen since its admission."""
        self.seen_bytes = rise

    def end(self, now: float) -> None:
        """End it; its outcome is final."""
        self.stage = Stage.ENDED
        self.total_s = now - self.arrived

    def too_long(self, limit: int, kind: type[PromptTooLong] = PromptTooLong) -> PromptTooLong:
        """The refusal of a request whose prompt would have to be at most `limit` tokens."""
        return kind(
            prompt_tokens=self.fitted.prompt_tokens,
            max_tokens=self.fitted.max_tokens,
            limit=limit,
            param=self.request.prompt_field,
        )

    def summary(self) -> dict[str, Any]:
        """For logs and status: numbers and names, no text of the conversation."""
        usage = self.usage
        return {
            "request_id": self.request_id,
            "answer_id": self.answer.id,
            "client": self.client,
            "stream": self.request.stream,
            "stage": self.stage.value,
            "outcome": self.outcome.value if self.stage is Stage.ENDED else None,
            "reason": self.reason,
            "attempts": self.answer.attempts,
            "generation": self.generation,
            "prompt_tokens": self.fitted.prompt_tokens,
            "counted_prompt_tokens": usage.prompt_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "completion_tokens": self.completion_tokens,
            "max_tokens": self.fitted.max_tokens,
            "predicted_bytes": self.predicted_bytes,
            "seen_bytes": self.seen_bytes,
            "prefill": self.seen.progress if self.seen else None,
            "tool_call_mends": {kind.value: count for kind, count in self.call_mends.items()},
            "queue_ms": round(self.queue_s * 1000),
            "first_content_ms": None if self.first_content_s is None else round(self.first_content_s * 1000),
            "total_ms": None if self.total_s is None else round(self.total_s * 1000),
        }


def has_images(prompt: Prompt) -> bool:
    """Whether any message of the prompt has an image."""
    return isinstance(prompt, ChatPrompt) and bool(image_urls(prompt.messages))
