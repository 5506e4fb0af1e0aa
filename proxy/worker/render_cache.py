"""The text of the prompt that was rendered last: a request is counted and then foreseen, and rendered once.

Known as an object, or by its messages, which are the worker's own and the same objects
(proxy/prompt/conversation_delta.py), and by what its last message and all else that makes it look like:
`repr` tells 1 from 1.0 and True, and takes any number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any

#: Seconds that a text holds: templates may tell the time.
_HOLDS_S = 1.0

Prompt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Rendered:
    prompt: Prompt
    before: list[Any]
    rest: str
    text: str
    at: float


class RenderCache:
    """`render` with a memory of one. What it was given must not change, but by rendering."""

    def __init__(self, render: Callable[[Prompt], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._render, self._clock = render, clock
        self._last: _Rendered | None = None

    def __call__(self, prompt: Prompt) -> str:
        """Raises what `render` does."""
        messages = prompt.get("messages")
        if not messages:
            return self._render(prompt)
        now, last = self._clock(), self._last
        if last is not None and now - last.at >= _HOLDS_S:
            last = None
        if last is not None and last.prompt is prompt:
            return last.text
        before = messages[:-1]
        rest = repr({**prompt, "messages": messages[-1:]})
        if last is not None and last.rest == rest and _same(last.before, before):
            return last.text
        text = self._render(prompt)
        self._last = _Rendered(prompt, before, rest, text, now)
        return text


def _same(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether they are the same objects: equal ones may render differently, as 1 and True do."""
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))
