"""Caches the text of the prompt that was rendered last: a request is counted and then predicted.

A prompt is recognized as the same object, or by two things. Its messages but the last must be the same
objects, which the worker keeps (proxy/prompt/conversation_delta.py). The `repr` of the rest must be equal,
which tells 1 from 1.0 and True.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any

#: Seconds for which a text is valid: templates may show the time.
_VALID_S = 1.0

Prompt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A rendered prompt: `before` has its messages but the last, `rest` is the `repr` of all else."""

    prompt: Prompt
    before: list[Any]
    rest: str
    text: str
    at: float


class RenderCache:
    """`render` with a cache of one prompt. Prompts must not change, except by rendering."""

    def __init__(self, render: Callable[[Prompt], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._render, self._clock = render, clock
        self._last: _Rendered | None = None

    def __call__(self, prompt: Prompt) -> str:
        """The text of the prompt. Raises what `render` raises."""
        messages = prompt.get("messages")
        if not messages:
            return self._render(prompt)
        now, last = self._clock(), self._last
        if last is not None and now - last.at >= _VALID_S:
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
    """Whether the items are the same objects: equal ones may render differently, such as 1 and True."""
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))
