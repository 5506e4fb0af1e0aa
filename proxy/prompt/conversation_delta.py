"""Carries a growing conversation to a worker process once: its next request has only what is new. Both ends.

An agent sends its whole conversation again every turn, megabytes of it; to write them to a pipe, read and
parse them would take longer than to count what is new. So the worker keeps the messages of the latest
conversations, all but the last of each, which some agents change from turn to turn. The sender compares
bytes of JSON, so that `1`, `1.0` and `true` differ, as they do in a rendered prompt; and it alone decides
what is kept: the receiver does as it is told, in the order in which it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

#: Conversations that are kept, and bytes of all of them as JSON. What is shorter is as quickly sent.
_CONVERSATIONS, _MOST_BYTES, _SHORTEST = 16, 16_000_000, 10_000

#: Fields of a request to the worker that hold a prompt, in the order in which they are packed.
PROMPTS = ("prompt", "other")

Prompt = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _KnownMessages:
    """Messages that the receiver has under `name`. `stem`: their JSON, without the bracket at its end."""

    name: int
    stem: bytes


class Sender:
    """For one life of the worker: whatever `packed` gives must be sent, in this order."""

    def __init__(self, *, shortest: int = _SHORTEST, most_bytes: int = _MOST_BYTES) -> None:
        """Both in bytes of JSON: of one conversation that is kept, and of all."""
        self._shortest, self._most_bytes = shortest, most_bytes
        self._known: list[_KnownMessages] = []  # the latest first
        self._named = 0

    def packed(self, prompt: Prompt) -> orjson.Fragment:
        """The prompt, without the messages that the receiver has.

        Raises TypeError for what is no JSON, and then remembers nothing.
        """
        messages = prompt.get("messages")
        if not messages:
            return orjson.Fragment(orjson.dumps(prompt))
        stem = orjson.dumps(messages[:-1])[:-1]
        base = self._begins(stem)
        new = b"[" + stem[len(base.stem) + 1 if base else 1 :]
        new += (b"," if len(new) > 1 else b"") + orjson.dumps(messages[-1]) + b"]"
        keeps = self._shortest <= len(stem) <= self._most_bytes
        known = self._with(_KnownMessages(self._named + 1, stem), instead_of=base) if keeps else self._known
        carried = {
            "new": orjson.Fragment(new),
            "after": base.name if base else None,
            "name": self._named + 1 if keeps else None,
            "forget": [old.name for old in self._known if old not in known],
        }
        packed = orjson.dumps({**prompt, "messages": carried})
        self._known, self._named = known, self._named + 1
        return orjson.Fragment(packed)

    def _begins(self, stem: bytes) -> _KnownMessages | None:
        """The longest known beginning of these messages."""
        known = (
            old
            for old in self._known
            if stem.startswith(old.stem) and stem[len(old.stem) : len(old.stem) + 1] in b","
        )
        return max(known, key=lambda old: len(old.stem), default=None)

    def _with(self, new: _KnownMessages, *, instead_of: _KnownMessages | None) -> list[_KnownMessages]:
        known = [new, *(old for old in self._known if old is not instead_of)][:_CONVERSATIONS]
        while sum(len(old.stem) for old in known) > self._most_bytes:
            known.pop()
        return known


class Receiver:
    """The worker's end."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Any]] = {}

    def unpacked(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The whole prompt, its messages in a list of its own.

        Raises KeyError where the two ends do not remember the same; nothing can be counted then.
        """
        carried = prompt.get("messages")
        if not isinstance(carried, dict):
            return prompt
        before = [] if carried["after"] is None else self._kept[carried["after"]]
        for name in carried["forget"]:
            del self._kept[name]
        messages = [*before, *carried["new"]]
        if carried["name"] is not None:
            self._kept[carried["name"]] = messages[:-1]
        return {**prompt, "messages": messages}
