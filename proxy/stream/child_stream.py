"""What one attempt's stream from the child has shown: its events typed, its ends told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.stream import sse

#: The texts of a delta; each may be null or missing.
_TEXTS = ("content", "text", "reasoning")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the child counted them; `cached_tokens` of the prompt came from its prompt cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None

    @classmethod
    def of(cls, usage: dict[str, Any]) -> Usage:
        """Raises Malformed."""
        try:
            details = usage.get("prompt_tokens_details") or {}
            return cls(
                prompt_tokens=int(usage["prompt_tokens"]),
                completion_tokens=int(usage["completion_tokens"]),
                cached_tokens=details.get("cached_tokens"),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise sse.Malformed("usage without token counts") from None


@dataclass(slots=True)
class StreamProgress:
    """Running sum of one attempt.

    Attributes:
        events: events with a choice so far; about the tokens generated.
        content: whether any of them was a text, reasoning or tool-call delta.
        done: whether the answer is complete: the child said so, an end of the connection does not.
        progress: (processed, total) prompt tokens, once known.
    """

    events: int = 0
    content: bool = False
    done: bool = False
    progress: tuple[int, int] | None = None
    usage: Usage | None = None


def read_event(block: bytes, seen: StreamProgress) -> dict[str, Any] | None:
    """The JSON of one event, noted in `seen`; None for comments and [DONE]. Raises Malformed."""
    if block.startswith(b":"):
        seen.progress = sse.prefill_progress(block) or seen.progress
        return None
    if block == sse.DONE:
        seen.done = True
        return None
    if not block.startswith(sse.DATA):
        raise sse.Malformed("neither data nor comment")
    event = sse.loads(block[len(sse.DATA) :])
    _note(event, seen)
    return event


def choice_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """The one choice of an event; None for the usage event. Raises Malformed."""
    match event.get("choices"):
        case [dict() as choice]:
            return choice
        case [] if "usage" in event:
            return None
        case _:
            raise sse.Malformed("an event without a choice")


def delta_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The delta of a chat event, the choice itself of a text event. Raises Malformed."""
    delta = choice.get("delta", choice)
    if not isinstance(delta, dict):
        raise sse.Malformed("a delta that is no object")
    for name in _TEXTS:
        if type(delta.get(name) or "") is not str:
            raise sse.Malformed(f"{name} that is no text")
    calls = delta.get("tool_calls") or []
    if type(calls) is not list or not all(type(call) is dict for call in calls):
        raise sse.Malformed("tool calls that are no objects")
    return delta


def add_reasoning_content(part: dict[str, Any]) -> None:
    """Half the clients read `reasoning` (the child's name), half `reasoning_content`: give both."""
    if part.get("reasoning"):
        part["reasoning_content"] = part["reasoning"]


def _note(event: dict[str, Any], seen: StreamProgress) -> None:
    choice = choice_of(event)
    if choice is None:
        seen.usage = Usage.of(event["usage"])
        return
    seen.events += 1
    if not seen.content:
        delta = delta_of(choice)
        seen.content = any(delta.get(key) for key in ("content", "text", "reasoning", "tool_calls"))
