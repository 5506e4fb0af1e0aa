"""Encodes a rendered prompt in segments, so that the next turn of a session costs its new messages only.

A *separator* is an added token that the tokenizer finds at the same places whatever stands around it, such
as `<|im_start|>`. The tokenizers library splits a text there before it normalizes, pre-tokenizes and merges
(`AddedVocabulary.extract_and_normalize`), so nothing goes across one. A *segment* runs from a separator to
the next; it is encoded with the separator in front, since some pre-tokenizers treat the start of a text in
a way of its own (Metaspace with prepend_scheme "first").
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Ids = Sequence[int]
Encode = Callable[[Sequence[str]], list[Ids]]

#: Token ids of segments that are kept: twice this, 16 MB. A session of 100,000 tokens takes 0.4 MB.
_REMEMBERED = 2_000_000
#: What a segment takes beside its ids, as so many of them; most messages are short.
_EACH = 40
#: Texts whose beginnings are kept, the latest; those of few characters are split faster than compared.
_STEMS, _SHORTEST_STEM = 16, 10_000
#: Segments at the end that are no part of it: the last message, and what asks for the next, may be others.
#: A longer beginning is only kept where so many more are loose: it is a copy of nearly all of the text.
_LOOSE, _LOOSEST = 8, 64
#: Characters of all of them: as many bytes where the text is ASCII, up to four times as many elsewhere.
_STEM_CHARACTERS = 8_000_000
_MOST_SEPARATORS = 4
#: A further separator must make the work that a new message causes this much smaller to be worth its search.
_WORTH = 0.9
#: What separators may break on: spaces and word characters at their sides, marks that join what is before
#: them, what normalizers change, and their own beginnings.
_AWKWARD = (
    "", " ", "  ", "\n", "\n\n", "\t", "a", "word", " word ", "Word\n", "1", "12", "…", "é", "e\u0301", "'s",
    "\u0301", "\u200d", "\ufeff", "ﬁ", "漢字", "▁", "▁▁", "Ġ", "\U0001f469\u200d\U0001f467", "<", ">", "|",
    "[", "]", "\r\n",
)  # fmt: skip
_TRIALS = 300


@dataclass(frozen=True, slots=True)
class AddedToken:
    """An entry of the tokenizer's added vocabulary.

    `exact`: it is matched as it stands, whatever is before it (not normalized, lstrip or single_word).
    """

    content: str
    exact: bool


def safe(added: Sequence[AddedToken], texts: Iterable[str]) -> list[str]:
    """The added tokens which occur in `texts` and which nothing can hide or stretch."""
    joined = "\n".join(texts)
    present = [token for token in added if token.exact and token.content and token.content in joined]
    return [token.content for token in present if _stands_alone(token.content, added)]


def _stands_alone(content: str, added: Sequence[AddedToken]) -> bool:
    """Whether no other added token can take a part of it, and none sees a space or a word at its sides."""
    if any(side.isspace() or side.isalnum() or side == "_" for side in (content[0], content[-1])):
        return False
    starts = tuple(content[:length] for length in range(1, len(content)))
    others = [token.content for token in added if token.content != content]
    # Its own end too: where two of them overlap, which is found depends on what is before them.
    return not any(content in other for other in others) and not any(
        end.endswith(starts) for end in [content, *others]
    )


def choose(candidates: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The few separators that split these texts best: each new message should be a segment by itself."""
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
    """Work that a change somewhere in the texts causes: a segment is hit as often as it is long."""
    return sum(len(segment) ** 2 for text in texts for segment in split(text, separators))


def split(text: str, separators: Sequence[str]) -> list[str]:
    """The segments, each with its separator in front; together they are the text."""
    segments = [text]
    for separator in separators:
        segments = [piece for segment in segments for piece in _split_at(segment, separator)]
    return segments


def _split_at(text: str, separator: str) -> list[str]:
    first, *rest = text.split(separator)
    pieces = [separator + piece for piece in rest]
    return [first, *pieces] if first else pieces


def agrees(separators: Sequence[str], encode: Encode, encode_whole: Encode) -> bool:
    """Whether encoding by segments gives what encoding in full does, on many awkward texts."""
    draw = random.Random(0)
    parts = [name[:cut] for name in separators for cut in (1, len(name) // 2, len(name) - 1, len(name))]
    pool = [*_AWKWARD, *(parts * 3)]
    texts = ["".join(draw.choices(pool, k=draw.randint(1, 12))) for _ in range(_TRIALS)]
    return all(
        list(whole) == [token for ids in encode(split(text, separators)) for token in ids]
        for text, whole in zip(texts, encode_whole(texts), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Stem:
    """The beginning of a text that was encoded, up to one of its last separators."""

    text: str
    ids: array[int]


class Segments:
    """Encodes texts, and remembers the ids of their segments. For one thread.

    A segment is known by the interpreter's own hash of it: 64 bits, keyed at random in each process, so no
    text can be made to collide, and by chance two of 65,536 do once in ten billion such sets.

    A text that begins as an earlier one did is only split from there on. That is the same as splitting all
    of it: where both have a separator, nothing before the place depends on what is after it, since no added
    token ends as a separator begins.
    """

    def __init__(
        self,
        separators: Sequence[str],
        encode: Encode,
        *,
        remembered: int = _REMEMBERED,
        shortest_stem: int = _SHORTEST_STEM,
    ) -> None:
        self.separators = tuple(separators)
        self._encode = encode
        self._remembered, self._shortest_stem = remembered, shortest_stem
        # Two generations in place of a strict LRU: what is used moves to the young one, and when that is
        # full, the old one goes as a whole.
        self._young: dict[int, array[int]] = {}
        self._old: dict[int, array[int]] = {}
        self._held = 0  # by the young
        self._stems: list[_Stem] = []  # the latest first
        self._last = _Stem("", array("i"))  # a whole text: it is counted first, and then its ids are wanted

    def count(self, text: str, most_new: int | None = None) -> int | None:
        """Tokens of the text; None where more than `most_new` characters of it would have to be encoded."""
        ids = self.ids(text, most_new)
        return None if ids is None else len(ids)

    def ids(self, text: str, most_new: int | None = None) -> array[int] | None:
        """The same: the tokens, which nobody may change."""
        if text == self._last.text:
            return self._last.ids
        stem = self._stem_of(text)
        segments = split(text[len(stem.text) :], self.separators)
        found = self._found(segments, most_new)
        if found is None:
            return None
        ids = stem.ids[:]
        for each in found:
            ids += each
        self._last = _Stem(text, ids)
        grown = stem
        if len(text) >= self._shortest_stem and len(segments) > (_LOOSEST if stem.text else _LOOSE):
            loose = sum(map(len, segments[-_LOOSE:]))
            grown = _Stem(text[:-loose], ids[: len(ids) - sum(map(len, found[-_LOOSE:]))])
        if grown.text:
            self._keep(grown, instead_of=stem)
        return ids

    def _found(self, segments: Sequence[str], most_new: int | None) -> list[array[int]] | None:
        """The ids of each segment, or None as `count`."""
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

    def _stem_of(self, text: str) -> _Stem:
        """The longest known beginning of `text` that a separator follows."""
        known = (
            stem
            for stem in self._stems
            if text.startswith(stem.text) and text.startswith(self.separators, len(stem.text))
        )
        return max(known, key=lambda stem: len(stem.text), default=_Stem("", array("i")))

    def _keep(self, stem: _Stem, *, instead_of: _Stem) -> None:
        """Remember `stem`, in place of the one that it goes on from."""
        self._stems = [stem, *(known for known in self._stems if known is not instead_of)][:_STEMS]
        while sum(len(known.text) for known in self._stems) > _STEM_CHARACTERS:
            self._stems.pop()

    def shared(self, first: str, second: str) -> int:
        """Length of the common prefix of two texts, in tokens."""
        ours, theirs = split(first, self.separators), split(second, self.separators)
        pairs = enumerate(zip(ours, theirs, strict=False))
        same = next((index for index, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        known = self.count("".join(ours[:same])) or 0
        return known + common(
            *self._encode(["".join(ours[same : same + 1]), "".join(theirs[same : same + 1])])
        )

    def _known(self, key: int) -> bool:
        """Whether the ids are there, and if so, among the young."""
        if key in self._young:
            return True
        ids = self._old.get(key)
        if ids is None:
            return False
        self._remember(key, ids)
        return True

    def _remember(self, key: int, ids: array[int]) -> None:
        self._young[key] = ids
        self._held += len(ids) + _EACH


def common(first: Ids, second: Ids) -> int:
    """Length of the common prefix of two lists or two arrays. Compares whole stretches, as memory."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
