"""Pure. Reads the child's events into typed form and sums up what one attempt's stream has shown so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.stream import sse

#: Fields of a delta that contain text; each may be null or missing.
_TEXTS = ("content", "text", "reasoning")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the child; `cached_tokens` of the prompt were found in its prompt cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None

    @classmethod
    def of(cls, usage: dict[str, Any]) -> Usage:
        """Read the `usage` object of a response. Raises Malformed."""
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
    """What one attempt has shown so far.

    Attributes:
        events: number of events with a choice; approximately the tokens generated.
        content: whether any of them had text, reasoning or a tool call.
        done: only the child's [DONE] says that an answer is complete; the end of the connection does not.
        progress: (processed, total) prompt tokens, once known.
    """

    events: int = 0
    content: bool = False
    done: bool = False
    progress: tuple[int, int] | None = None
    usage: Usage | None = None


def read_event(block: bytes, seen: StreamProgress) -> dict[str, Any] | None:
    """Parse one event and record it in `seen`; None for comments and [DONE]. Raises Malformed."""
    if block.startswith(b":"):
        seen.progress = sse.prefill_progress(block) or seen.progress
        return None
    if block == sse.DONE:
        seen.done = True
        return None
    if not block.startswith(sse.DATA):
        raise sse.Malformed("neither data nor comment")
    event = sse.loads(block[len(sse.DATA) :])
    choice = choice_of(event)
    if choice is None:
        seen.usage = Usage.of(event["usage"])
        return event
    seen.events += 1
    if not seen.content:
        delta = delta_of(choice)
        seen.content = any(delta.get(key) for key in (*_TEXTS, "tool_calls"))
    return event


def choice_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """The only choice of an event; None for the usage event. Raises Malformed."""
    match event.get("choices"):
        case [dict() as choice]:
            return choice
        case [] if "usage" in event:
            return None
        case _:
            raise sse.Malformed("an event without a choice")


def delta_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The delta of a chat event, or the choice itself of a text event. Raises Malformed."""
    delta = choice.get("delta", choice)
    if not isinstance(delta, dict):
        raise sse.Malformed("a delta that is not an object")
    for name in _TEXTS:
        if type(delta.get(name) or "") is not str:
            raise sse.Malformed(f"{name} that is not text")
    calls = delta.get("tool_calls") or []
    if type(calls) is not list or not all(type(call) is dict for call in calls):
        raise sse.Malformed("tool calls that are not objects")
    return delta


def add_reasoning_content(part: dict[str, Any]) -> None:
    """Give reasoning under both names that clients read, the child's `reasoning` and `reasoning_content`."""
    if part.get("reasoning"):
        part["reasoning_content"] = part["reasoning"]
