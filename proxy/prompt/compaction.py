"""Pure. Recognizes an agent's compaction of a refused conversation, which may exceed the prompt limit.

An agent that gets an overflow error asks the model to summarize the whole conversation, plus one instruction:
often more than what was refused. Such a request is recognized by the messages that it shares with a refused
conversation: at least half of them, from the first on. System messages do not count, since some agents put
their instruction there.

Other agents (pi is one) write the whole history as text into one message. It is recognized by its words: at
least half of the excerpts taken from all over the refused conversation occur in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import orjson

from proxy.request.messages import Message

#: Refused conversations that are remembered, the latest; one needs about 300 bytes.
_REMEMBERED = 1024
#: Seconds for which one is remembered. Agents compact within minutes; later it is another conversation with
#: the same beginning.
_REMEMBERED_S = 3600.0
#: Bytes of the digest of a conversation's first messages.
_DIGEST_BYTES = 16
#: Most excerpts per conversation, and the fewest that identify one. None are taken from tool results, which
#: agents shorten in what they write.
_EXCERPTS, _FEWEST_EXCERPTS = 16, 4
#: An excerpt lies within a line and has only characters that are the same in JSON, in XML and in a quotation.
_EXCERPT = re.compile(r"""[^\s"'`\\<>&][^"'`\\<>&\r\n\t]{18,62}[^\s"'`\\<>&]""")
#: The latest refused conversations that a text is compared with; each comparison takes up to a millisecond.
_COMPARED = 16


@dataclass(frozen=True, slots=True)
class _PastOverflow:
    """A refused conversation: `whole` and `passed` are digests of it and of the request that was admitted."""

    whole: bytes
    until: float
    excerpts: tuple[str, ...]
    passed: bytes | None = None


class OverflowHistory:
    """The refused conversations of one gateway. `now` is in seconds on any monotonic clock."""

    def __init__(self) -> None:
        # By the digest of the first half; in the order of refusal.
        self._refused: dict[bytes, _PastOverflow] = {}

    def record_refusal(self, messages: Sequence[Message], now: float) -> None:
        """Remember a conversation that was refused."""
        digests = _digests(messages)
        if not digests:
            return
        excerpts = _excerpts(messages)
        known = self._find(digests, now)
        if known is not None:
            self._refused[known] = replace(self._refused[known], whole=digests[-1], excerpts=excerpts)
            return
        first_half = digests[(len(digests) - 1) // 2]
        self._refused[first_half] = _PastOverflow(digests[-1], now + _REMEMBERED_S, excerpts)
        while len(self._refused) > _REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def admit_compaction(self, messages: Sequence[Message], now: float) -> bool:
        """Whether this request is the compaction of a refused conversation and may exceed the limit.

        Of each conversation only the first such request is admitted, however often it is repeated. A
        repetition of the refused request itself is not a compaction.
        """
        digests = _digests(messages)
        known = self._find(digests, now) or self._find_quoted(messages, now)
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

    def _find_quoted(self, messages: Sequence[Message], now: float) -> bytes | None:
        """The conversation that is quoted in the longest of the user's messages."""
        text = max((text for role, text in _texts(messages) if role == "user"), key=len, default="")
        latest = islice(reversed(self._refused.items()), _COMPARED)
        return next(
            (key for key, refused in latest if now < refused.until and _quotes(text, refused.excerpts)), None
        )


def _quotes(text: str, excerpts: Sequence[str]) -> bool:
    """Whether at least half of the excerpts occur in the text."""
    if len(excerpts) < _FEWEST_EXCERPTS:
        return False
    missing = (excerpt for excerpt in excerpts if excerpt not in text)
    return len(list(islice(missing, len(excerpts) // 2 + 1))) <= len(excerpts) // 2


def _excerpts(messages: Sequence[Message]) -> tuple[str, ...]:
    """One excerpt each from some user and assistant messages, evenly spread."""
    spoken = [text for role, text in _texts(messages) if role in ("user", "assistant")]
    found = (_EXCERPT.search(text) for text in spoken)
    different = list(dict.fromkeys(match[0] for match in found if match))
    step = max(1, -(-len(different) // _EXCERPTS))
    return tuple(different[::step])


def _texts(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Role and text of each message, except those with images."""
    return ((m["role"], m["content"]) for m in messages if type(m["content"]) is str)


def _digests(messages: Sequence[Message]) -> list[bytes]:
    """For each message but the system's, a digest of it and of those before it."""
    running = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digests = []
    for message in messages:
        if message["role"] != "system":
            running.update(orjson.dumps(message))
            digests.append(running.digest())
    return digests
