"""Remembers refused conversations: one request of each, its agent's compaction, may be longer than the limit.

An agent that is told of an overflow asks the model to summarize, with the whole conversation and one more
instruction: often more than what was refused. That request is known by what it shares: at least half of the
refused conversation's messages, from the first on. System messages do not count, since some agents put
their instruction there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from proxy.core.messages import Message

#: Conversations that are remembered, the latest; one takes some 300 bytes.
_REMEMBERED = 1024
#: Seconds. Agents compact within minutes; later it is another conversation that began alike.
_REMEMBERED_S = 3600.0
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Refused:
    """Digests are of a conversation's first messages. `passed`: the request that was let through."""

    whole: bytes
    until: float
    passed: bytes | None = None


class Refusals:
    """The refused conversations of one proxy. `now` is in seconds on any clock that does not go back."""

    def __init__(self) -> None:
        self._refused: dict[bytes, _Refused] = {}  # by the first half; in the order of refusal

    def remember(self, messages: Sequence[Message], now: float) -> None:
        """This conversation was refused."""
        digests = _digests(messages)
        if not digests:
            return
        known = self._find(digests, now)
        if known is not None:
            self._refused[known] = replace(self._refused[known], whole=digests[-1])
            return
        self._refused[digests[(len(digests) - 1) // 2]] = _Refused(digests[-1], now + _REMEMBERED_S)
        while len(self._refused) > _REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def take(self, messages: Sequence[Message], now: float) -> bool:
        """Whether this is the request that may pass; it is the only one from then on, however often tried.

        A refused request that simply comes again is none.
        """
        digests = _digests(messages)
        known = self._find(digests, now)
        if known is None:
            return False
        refused = self._refused[known]
        if refused.passed is not None or refused.whole == digests[-1]:
            return refused.passed == digests[-1]
        self._refused[known] = replace(refused, passed=digests[-1])
        return True

    def _find(self, digests: Sequence[bytes], now: float) -> bytes | None:
        found = (digest for digest in reversed(digests) if digest in self._refused)
        return next((digest for digest in found if now < self._refused[digest].until), None)


def _digests(messages: Sequence[Message]) -> list[bytes]:
    """One for each message that is not the system's, of it and those before it."""
    running = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digests = []
    for message in messages:
        if message["role"] != "system":
            running.update(orjson.dumps(message))
            digests.append(running.digest())
    return digests
