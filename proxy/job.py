"""One accepted request on its way through gate and relay, and everything that is measured about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proxy.prompt.fit import Fitted
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.request.images import image_urls
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage


class Stage(StrEnum):
    """Where a request is."""

    WAITING = "waiting"  # in the queue
    STARTING = "starting"  # has its place; the child is loading or restarting
    PREFILL = "prefill"
    DECODE = "decode"
    ENDED = "ended"


class Outcome(StrEnum):
    """How it ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    INVALID = "invalid"  # the child refused the request
    UNAVAILABLE = "unavailable"  # 503, in headers or in the stream, before any content
    FAILED = "failed"  # the answer broke, the child lives
    CUT = "cut"  # the child died after content was sent
    CANCELLED = "cancelled"  # by an administrator
    STOPPED = "stopped"  # the proxy itself is stopping
    ERROR = "error"  # a bug of ours


@dataclass(slots=True)
class Job:
    """Times are seconds on the monotonic clock, durations from `arrived` on.

    Attributes:
        outcome: final once the stage is ENDED; an error of ours until something better is known.
        client: name of its key, or "anonymous".
        via: the `Via` of its request to the child.
        deadline: it waits for its turn and for the child until then; running is not limited.
        queue_s: how long it has waited for its turn, over all attempts.
        first_content_s: when its client was sent content; None if it never was.
        generation: number of the child's life that works on it, or did last.
        asked: when the running attempt was given to the child; None while it is on its way there.
        seen: what the running attempt has shown.
        give_up: ends the running attempt for want of memory; None while the child has nothing of it.
        reason: for an outcome other than ok, what metrics count it under.
        predicted_bytes: what was reserved for it at its grant; None before.
        seen_bytes: by how much the child's memory rose while it ran; None if that is not known.
    """

    request_id: str
    request: CompletionRequest
    fitted: Fitted
    answer: Answer
    client: str
    arrived: float
    deadline: float
    via: str = ""
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
    predicted_bytes: int | None = None
    seen_bytes: int | None = None
    _fingerprint: str = field(default="", init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """What tells this request from others, however it is spelled; worked out when first asked for."""
        self._fingerprint = self._fingerprint or self.request.fingerprint()
        return self._fingerprint

    @property
    def unstreamed(self) -> bool:
        """Whether the child is asked for one body: only so does it report log probabilities."""
        return self.request.logprobs and not self.request.stream

    @property
    def sequential(self) -> bool:
        """Whether the child runs it outside of its batch, whatever the model (server.py, _is_batchable)."""
        prompt = self.request.prompt
        images = isinstance(prompt, ChatPrompt) and bool(image_urls(prompt.messages))
        return images or self.request.sampling.get("seed") is not None

    @property
    def usage(self) -> Usage | None:
        """Tokens as the child counted them; None until its answer is complete."""
        return self.seen.usage if self.seen else None

    @property
    def completion_tokens(self) -> int:
        """As counted by the child, or while it runs the number of events, which is nearly that."""
        if self.usage is not None:
            return self.usage.completion_tokens
        return self.seen.events if self.seen else 0

    def was_asked(self, now: float) -> None:
        """The child can have it from now on, and die of it."""
        self.asked = now

    def content_sent(self, now: float) -> None:
        self.stage = Stage.DECODE
        if self.first_content_s is None:
            self.first_content_s = now - self.arrived

    def saw(self, rise: int) -> None:
        """The child's memory has risen by so many bytes since it was let in."""
        self.seen_bytes = rise

    def end(self, now: float) -> None:
        self.stage = Stage.ENDED
        self.total_s = now - self.arrived

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
            "queue_ms": round(self.queue_s * 1000),
            "first_content_ms": None if self.first_content_s is None else round(self.first_content_s * 1000),
            "total_ms": None if self.total_s is None else round(self.total_s * 1000),
        }
