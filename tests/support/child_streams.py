"""Random streams of the child, whole and valid, with everything that it may send: hypothesis strategies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.support import child_events

#: JSON escapes a lone surrogate, so a model's odd tokens can bring one through.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
ARGUMENTS = st.sampled_from(['{"a": 1}', "{}", "", "{", '"{\\"a\\": 1}"', "null", "[1]", '{"input": "x"}'])
NAMES = st.sampled_from(["Bash", "read", "apply_patch", "spawn_agent", ""])


@dataclass
class ChildStream:
    """One answer: its events, each as bytes, and what they say."""

    events: list[bytes] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str = "stop"

    @property
    def whole_text(self) -> str:
        return as_json(self.text)

    @property
    def whole_reasoning(self) -> str:
        return as_json(self.reasoning)

    @property
    def data(self) -> bytes:
        return b"".join(self.events)


def as_json(text: str) -> str:
    """A text as JSON has it: halves of a surrogate pair that meet are one character."""
    value: str = json.loads(json.dumps(text))
    return value


@st.composite
def child_streams(draw: st.DrawFn) -> ChildStream:
    """Any answer: parts in any order, mixed with comments and empty deltas."""
    stream = ChildStream()
    for _ in range(draw(st.integers(0, 8))):
        match draw(st.sampled_from(["text", "texts", "reasoning", "call", "both", "comment", "empty"])):
            case "text":
                _add(stream, content=draw(TEXTS))
            case "texts":
                for text in draw(st.lists(TEXTS, max_size=5)):
                    _add(stream, content=text)
            case "reasoning":
                _add(stream, reasoning=draw(TEXTS))
            case "call":
                _add(stream, tool_calls=draw(_calls(stream)))
            case "both":
                _add(stream, content=draw(TEXTS), reasoning=draw(TEXTS), tool_calls=draw(_calls(stream)))
            case "comment":
                stream.events.append(b": keepalive 3/7\n\n")
            case "empty":
                stream.events.append(child_events.delta())
    stream.finish_reason = draw(st.sampled_from(["stop", "length", "tool_calls"]))
    stream.events.append(child_events.delta(finish=stream.finish_reason))
    if draw(st.booleans()):
        cached = draw(st.sampled_from([None, 0, 3, 7]))
        stream.events.append(child_events.usage(prompt=7, completion=5, cached=cached))
    stream.events.append(child_events.DONE)
    return stream


@st.composite
def _calls(draw: st.DrawFn, stream: ChildStream) -> list[dict[str, Any]]:
    given = draw(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=2))
    first = len(stream.calls)
    return [child_events.tool_call(n, a, index=first + i) for i, (n, a) in enumerate(given)]


def _add(stream: ChildStream, **delta: Any) -> None:
    stream.events.append(child_events.delta(**delta))
    stream.text += delta.get("content", "")
    stream.reasoning += delta.get("reasoning", "")
    for call in delta.get("tool_calls", ()):
        stream.calls.append((call["function"]["name"], call["function"]["arguments"]))
