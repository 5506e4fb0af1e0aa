"""Encodes a rendered prompt in segments, so that the next turn of a session costs only its new messages.

A *separator* is an added token that the tokenizer finds at the same places whatever surrounds it, such as
`<|im_start|>`. The tokenizers library splits a text there before it normalizes, pre-tokenizes and merges
(`AddedVocabulary.extract_and_normalize`), so no token extends across one. A *segment* extends from a
separator to the next. It is encoded with the separator in front, since some pre-tokenizers treat the start of
a text differently (Metaspace with prepend_scheme "first").
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Ids = Sequence[int]
Encode = Callable[[Sequence[str]], list[Ids]]

#: Token ids of segments that are retained: up to twice this, 16 MB. A session of 100,000 tokens has 0.4 MB.
_REMEMBERED = 2_000_000
#: Overhead of a segment, in token ids; most messages are short.
_OVERHEAD = 40
#: Most prefixes of texts that are retained, and the characters from which one is worth it: shorter texts are
#: split faster than compared.
_PREFIXES, _SHORTEST_PREFIX = 16, 10_000
#: Segments at the end that do not belong to a retained prefix: the last message, and what asks for the next,
#: may change.
_TAIL = 8
#: A longer prefix is retained only if this many segments follow the known one: it copies nearly all of the
#: text.
_LONGEST_TAIL = 64
#: Characters of all prefixes: one byte each if the text is ASCII, up to four elsewhere.
_PREFIX_CHARACTERS = 8_000_000
#: Most separators that are used.
_MOST_SEPARATORS = 4
#: A further separator must reduce the work that a new message causes to this fraction, to be worth its
#: search.
_WORTH = 0.9
#: Texts next to which a separator may not be found: spaces and word characters, combining marks, characters
#: that normalizers change, and beginnings of separators.
_AWKWARD = (
    "", " ", "  ", "\n", "\n\n", "\t", "a", "word", " word ", "Word\n", "1", "12", "…", "é", "e\u0301", "'s",
    "\u0301", "\u200d", "\ufeff", "ﬁ", "漢字", "▁", "▁▁", "Ġ", "\U0001f469\u200d\U0001f467", "<", ">", "|",
    "[", "]", "\r\n",
)  # fmt: skip
#: Number of random texts that are compared.
_TRIALS = 300


@dataclass(frozen=True, slots=True)
class AddedToken:
    """An entry of the tokenizer's added vocabulary.

    `exact`: it is matched literally, whatever precedes it (not normalized, lstrip or single_word).
    """

    content: str
    exact: bool


def safe(added: Sequence[AddedToken], texts: Iterable[str]) -> list[str]:
    """The added tokens that occur in `texts` and that are found whatever surrounds them."""
    joined = "\n".join(texts)
    present = [token for token in added if token.exact and token.content and token.content in joined]
    return [token.content for token in present if _stands_alone(token.content, added)]


def _stands_alone(content: str, added: Sequence[AddedToken]) -> bool:
    """Whether no added token can overlap it, and it neither begins nor ends with a space or a word."""
    if any(side.isspace() or side.isalnum() or side == "_" for side in (content[0], content[-1])):
        return False
    starts = tuple(content[:length] for length in range(1, len(content)))
    others = [token.content for token in added if token.content != content]
    # Its own end counts too: if two of them overlap, which one is found depends on what precedes them.
    return not any(content in other for other in others) and not any(
        end.endswith(starts) for end in [content, *others]
    )


def choose(candidates: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The few separators that split these texts best; each new message should be a segment by itself."""
    chosen: list[str] = []
    cost = _cost(chosen, texts)
    while len(chosen) < _MOST_SEPARATORS:
        costs = {name: _cost([*chosen, name], texts) for name in candidates if name not in chosen}
        best = min(costs, key=costs.__getitem__, default=None)
        if best is None or costs[best] > _WORTH * cost:
            break
        chosen.append(best)
        cost = costs[best]
    return tuple(chosen)


def _cost(separators: Sequence[str], texts: Sequence[str]) -> int:
    """Work that a change in the texts causes: a segment is hit in proportion to its length."""
    return sum(len(segment) ** 2 for text in texts for segment in split(text, separators))


def split(text: str, separators: Sequence[str]) -> list[str]:
    """Split a text into segments, each with its separator in front; joined, they are the text."""
    segments = [text]
    for separator in separators:
        segments = [piece for segment in segments for piece in _split_at(segment, separator)]
    return segments


def _split_at(text: str, separator: str) -> list[str]:
    first, *rest = text.split(separator)
    pieces = [separator + piece for piece in rest]
    return [first, *pieces] if first else pieces


def agrees(separators: Sequence[str], encode: Encode, encode_whole: Encode) -> bool:
    """Whether encoding by segments equals encoding in full, on many awkward texts."""
    draw = random.Random(0)
    parts = [name[:cut] for name in separators for cut in (1, len(name) // 2, len(name) - 1, len(name))]
    pool = [*_AWKWARD, *(parts * 3)]
    texts = ["".join(draw.choices(pool, k=draw.randint(1, 12))) for _ in range(_TRIALS)]
    return all(
        list(whole) == [token for ids in encode(split(text, separators)) for token in ids]
        for text, whole in zip(texts, encode_whole(texts), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The beginning of an encoded text, up to one of its last separators."""

    text: str
    ids: array[int]


class Segments:
    """Encodes texts and retains the ids of their segments. Not thread-safe.

    A segment is identified by the interpreter's own hash: 64 bits, keyed at random in each process. So no
    text can be made to collide, and by chance two of 65,536 segments collide once in ten billion such sets.

    A text with the prefix of an earlier one is split only after it. That equals splitting all of it: if both
    have a separator at that place, nothing before it depends on what follows, since no added token ends with
    the beginning of a separator.
    """

    def __init__(
        self,
        separators: Sequence[str],
        encode: Encode,
        *,
        remembered: int = _REMEMBERED,
        shortest_prefix: int = _SHORTEST_PREFIX,
    ) -> None:
        self.separators = tuple(separators)
        self._encode = encode
        self._remembered, self._shortest_prefix = remembered, shortest_prefix
        # Two generations instead of a strict LRU: segments that are used move to the young one; when it is
        # full, the old one is dropped as a whole.
        self._young: dict[int, array[int]] = {}
        self._old: dict[int, array[int]] = {}
        self._held = 0  # token ids in the young generation
        self._prefixes: list[_Prefix] = []  # the latest first
        self._last = _Prefix("", array("i"))  # a whole text: it is counted first, then its ids are asked for

    def count(self, text: str, most_new: int | None = None) -> int | None:
        """Number of tokens; None if more than `most_new` characters would have to be encoded."""
        ids = self.ids(text, most_new)
        return None if ids is None else len(ids)

    def ids(self, text: str, most_new: int | None = None) -> array[int] | None:
        """The token ids, read-only; None as in `count`."""
        if text == self._last.text:
            return self._last.ids
        prefix = self._known_prefix(text)
        segments = split(text[len(prefix.text) :], self.separators)
        found = self._found(segments, most_new)
        if found is None:
            return None
        ids = prefix.ids[:]
        for each in found:
            ids += each
        self._last = _Prefix(text, ids)
        grown = prefix
        if len(text) >= self._shortest_prefix and len(segments) > (_LONGEST_TAIL if prefix.text else _TAIL):
            tail = sum(map(len, segments[-_TAIL:]))
            grown = _Prefix(text[:-tail], ids[: len(ids) - sum(map(len, found[-_TAIL:]))])
        if grown.text:
            self._keep(grown, instead_of=prefix)
        return ids

    def _found(self, segments: Sequence[str], most_new: int | None) -> list[array[int]] | None:
        """The ids of each segment; None as in `count`."""
        keys = [(hash(segment), segment) for segment in segments]
        new = {key: segment for key, segment in keys if not self._known(key)}
        if most_new is not None and sum(map(len, new.values())) > most_new:
            return None
        if new:
            for key, encoded in zip(new, self._encode(list(new.values())), strict=True):
                self._remember(key, array("i", encoded))
        young = self._young
        found = [young[key] for key, _ in keys]
        if self._held > self._remembered:
            self._young, self._old, self._held = {}, young, 0
        return found

    def _known_prefix(self, text: str) -> _Prefix:
        """The longest known prefix of `text` that a separator follows."""
        known = (
            prefix
            for prefix in self._prefixes
            if text.startswith(prefix.text) and text.startswith(self.separators, len(prefix.text))
        )
        return max(known, key=lambda prefix: len(prefix.text), default=_Prefix("", array("i")))

    def _keep(self, prefix: _Prefix, *, instead_of: _Prefix) -> None:
        """Retain `prefix`, replacing the one that it extends."""
        self._prefixes = [prefix, *(known for known in self._prefixes if known is not instead_of)][:_PREFIXES]
        while sum(len(known.text) for known in self._prefixes) > _PREFIX_CHARACTERS:
            self._prefixes.pop()

    def shared(self, first: str, second: str) -> int:
        """Length of the common prefix of two texts, in tokens."""
        ours, theirs = split(first, self.separators), split(second, self.separators)
        pairs = enumerate(zip(ours, theirs, strict=False))
        same = next((index for index, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        known = self.count("".join(ours[:same])) or 0
        return known + common_prefix(
            *self._encode(["".join(ours[same : same + 1]), "".join(theirs[same : same + 1])])
        )

    def _known(self, key: int) -> bool:
        """Whether the ids are known; if so, move them to the young generation."""
        if key in self._young:
            return True
        ids = self._old.get(key)
        if ids is None:
            return False
        self._remember(key, ids)
        return True

    def _remember(self, key: int, ids: array[int]) -> None:
        self._young[key] = ids
        self._held += len(ids) + _OVERHEAD


def common_prefix(first: Ids, second: Ids) -> int:
    """Length of the common prefix of two lists or two arrays. Compares whole ranges at once."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
