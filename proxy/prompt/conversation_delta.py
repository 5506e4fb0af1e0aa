"""Both ends of a protocol that sends the messages of a growing conversation to the worker only once.

An agent sends its whole conversation again every turn, megabytes of it. Writing them to a pipe, reading and
parsing them would take longer than counting what is new. So the worker keeps the messages of the latest
conversations, without the last of each, which some agents change from turn to turn. The sender compares JSON
bytes, so that `1`, `1.0` and `true` differ, as they do in a rendered prompt. The sender alone decides what is
kept; the receiver follows its orders in the order in which they arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

#: Conversations whose messages are kept, and most bytes of all of them as JSON.
_CONVERSATIONS, _MOST_BYTES = 16, 16_000_000
#: Conversations shorter than this many bytes of JSON are not kept: sending them again is as fast.
_SHORTEST = 10_000

#: Fields of a request to the worker that contain a prompt, in the order in which they are packed.
PROMPTS = ("prompt", "other")

Prompt = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _KnownMessages:
    """Messages that the receiver has under `name`; `stem` is their JSON without its closing bracket."""

    name: int
    stem: bytes


class Sender:
    """The gateway's end, for one life of the worker. What `packed` returns must be sent, in this order."""

    def __init__(self, *, shortest: int = _SHORTEST, most_bytes: int = _MOST_BYTES) -> None:
        """The shortest conversation that is kept and the most of all together, in bytes of JSON."""
        self._shortest, self._most_bytes = shortest, most_bytes
        self._known: list[_KnownMessages] = []  # the latest first
        self._named = 0

    def packed(self, prompt: Prompt) -> orjson.Fragment:
        """The prompt as JSON, without the messages that the receiver already has.

        Raises TypeError, and remembers nothing, if the prompt cannot be serialized.
        """
        messages = prompt.get("messages")
        if not messages:
            return orjson.Fragment(orjson.dumps(prompt))
        stem = orjson.dumps(messages[:-1])[:-1]
        base = self._longest_prefix(stem)
        new = b"[" + stem[len(base.stem) + 1 if base else 1 :]
        new += (b"," if len(new) > 1 else b"") + orjson.dumps(messages[-1]) + b"]"
        keeps = self._shortest <= len(stem) <= self._most_bytes
        known = self._with(_KnownMessages(self._named + 1, stem), instead_of=base) if keeps else self._known
        delta = {
            "new": orjson.Fragment(new),
            "after": base.name if base else None,
            "name": self._named + 1 if keeps else None,
            "forget": [old.name for old in self._known if old not in known],
        }
        packed = orjson.dumps({**prompt, "messages": delta})
        self._known, self._named = known, self._named + 1
        return orjson.Fragment(packed)

    def _longest_prefix(self, stem: bytes) -> _KnownMessages | None:
        """The longest known prefix of these messages."""
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
    """The worker's end: puts whole prompts together again."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Any]] = {}

    def unpacked(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The whole prompt, with its messages in a new list.

        Raises KeyError if the two ends disagree about what is kept; then nothing can be counted.
        """
        delta = prompt.get("messages")
        if not isinstance(delta, dict):
            return prompt
        before = [] if delta["after"] is None else self._kept[delta["after"]]
        for name in delta["forget"]:
            del self._kept[name]
        messages = [*before, *delta["new"]]
        if delta["name"] is not None:
            self._kept[delta["name"]] = messages[:-1]
        return {**prompt, "messages": messages}
