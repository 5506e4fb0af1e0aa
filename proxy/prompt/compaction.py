"""Remembers refused conversations: one request of each, its agent's compaction, may be longer than the limit.

An agent that is told of an overflow asks the model to summarize, with the whole conversation and one more
instruction: often more than what was refused. That request is known by what it shares: at least half of the
refused conversation's messages, from the first on. System messages do not count, since some agents put
their instruction there.

Other agents (pi is one) write the whole history into one message, as a text. That is known by what was said:
at least half of some words of the refused conversation, taken from all over it, are in that one message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import orjson

from proxy.request.messages import Message

#: Conversations that are remembered, the latest; one takes some 300 bytes.
_REMEMBERED = 1024
#: Seconds. Agents compact within minutes; later it is another conversation that began alike.
_REMEMBERED_S = 3600.0
_DIGEST_BYTES = 16
#: Excerpts of a conversation that are kept, and the fewest that say anything. Tool results have none: agents
#: shorten them in what they write.
_EXCERPTS, _FEWEST_EXCERPTS = 16, 4
#: Within a line, and of characters that are the same in JSON, in XML and in a quotation.
_EXCERPT = re.compile(r"""[^\s"'`\\<>&][^"'`\\<>&\r\n\t]{18,62}[^\s"'`\\<>&]""")
#: Refused conversations, the latest, that a text is compared with: each takes up to a millisecond.
_COMPARED = 16


@dataclass(frozen=True, slots=True)
class _PastOverflow:
    """Digests are of a conversation's first messages. `passed`: the request that was let through."""

    whole: bytes
    until: float
    excerpts: tuple[str, ...]
    passed: bytes | None = None


class OverflowHistory:
    """The refused conversations of one proxy. `now` is in seconds on any clock that does not go back."""

    def __init__(self) -> None:
        self._refused: dict[bytes, _PastOverflow] = {}  # by the first half; in the order of refusal

    def remember(self, messages: Sequence[Message], now: float) -> None:
        """This conversation was refused."""
        digests = _digests(messages)
        if not digests:
            return
        excerpts = _excerpts(messages)
        known = self._find(digests, now)
        if known is not None:
            self._refused[known] = replace(self._refused[known], whole=digests[-1], excerpts=excerpts)
            return
        self._refused[digests[(len(digests) - 1) // 2]] = _PastOverflow(
            digests[-1], now + _REMEMBERED_S, excerpts
        )
        while len(self._refused) > _REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def take(self, messages: Sequence[Message], now: float) -> bool:
        """Whether this is the request that may pass; it is the only one from then on, however often tried.

        A refused request that simply comes again is none.
        """
        digests = _digests(messages)
        known = self._find(digests, now) or self._find_told(messages, now)
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

    def _find_told(self, messages: Sequence[Message], now: float) -> bytes | None:
        """The conversation that one of the user's messages, the longest, tells."""
        text = max((text for role, text in _texts(messages) if role == "user"), key=len, default="")
        latest = islice(reversed(self._refused.items()), _COMPARED)
        return next((key for key, told in latest if now < told.until and _tells(text, told.excerpts)), None)


def _tells(text: str, excerpts: Sequence[str]) -> bool:
    """Whether at least half of the excerpts are in the text."""
    if len(excerpts) < _FEWEST_EXCERPTS:
        return False
    missing = (excerpt for excerpt in excerpts if excerpt not in text)
    return len(list(islice(missing, len(excerpts) // 2 + 1))) <= len(excerpts) // 2


def _excerpts(messages: Sequence[Message]) -> tuple[str, ...]:
    """One of each of some messages of the user and the assistant, evenly spread."""
    spoken = [text for role, text in _texts(messages) if role in ("user", "assistant")]
    found = (_EXCERPT.search(text) for text in spoken)
    different = list(dict.fromkeys(match[0] for match in found if match))
    step = max(1, -(-len(different) // _EXCERPTS))
    return tuple(different[::step])


def _texts(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Who says what; a message with images is passed over."""
    return ((m["role"], m["content"]) for m in messages if type(m["content"]) is str)


def _digests(messages: Sequence[Message]) -> list[bytes]:
    """One for each message that is not the system's, of it and those before it."""
    running = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digests = []
    for message in messages:
        if message["role"] != "system":
            running.update(orjson.dumps(message))
            digests.append(running.digest())
    return digests
