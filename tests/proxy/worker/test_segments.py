from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from proxy.worker import segments as segments_module
from proxy.worker.segments import AddedToken, Ids, Segments, agrees, choose, common_prefix, safe, split
from tests.support.tokenizer_zoo import KINDS, TOKENIZERS, Kind


def exact(*contents: str) -> list[AddedToken]:
    return [AddedToken(content, exact=True) for content in contents]


@pytest.mark.parametrize(
    ("token", "others"),
    [
        ("<a>", []),
        ("<a>", exact("<b>", "</a>", "a>")),  # what begins inside it comes too late to take it
        ("[INST]", exact("[/INST]")),
    ],
)
def test_a_separator_that_nothing_can_hide(token: str, others: list[AddedToken]) -> None:
    assert safe([*exact(token), *others], [f"x {token} y"]) == [token]


@pytest.mark.parametrize(
    ("token", "others"),
    [
        ("<a>", exact("<a>b")),  # a longer token at the same place
        ("<a>", exact("x<a>")),
        ("<a>", exact("x<")),  # one that takes its beginning away
        ("<a>", [AddedToken("y<", exact=False)]),
        ("a>", []),  # a word character at its side could join what is before
        ("<a", []),
        ("<a> ", []),
        ("_<a>", []),
        ("<a><", []),  # two of them may overlap
    ],
)
def test_a_separator_that_something_can_hide(token: str, others: list[AddedToken]) -> None:
    assert token not in safe([*exact(token), *others], [f"x {token} y"])


def test_tokens_that_take_what_is_beside_them_separate_nothing() -> None:
    assert safe([AddedToken("<a>", exact=False)], ["x<a>y"]) == []


def test_only_what_occurs_separates() -> None:
    assert safe(exact("<a>", "<b>"), ["x<a>y"]) == ["<a>"]


def test_the_separators_that_part_messages_best() -> None:
    texts = ["<s>" + "<u>word word</u>\n" * 20]
    assert choose(["<s>", "<u>", "</u>"], texts)[0] in {"<u>", "</u>"}
    assert "<s>" not in choose(["<s>", "<u>", "</u>"], texts)
    assert choose([], texts) == ()


@given(st.lists(st.sampled_from(["<a>", "<b>", "<", "a", ">", " "]), max_size=30).map("".join))
def test_segments_are_the_text(text: str) -> None:
    segments = split(text, ("<a>", "<b>"))
    assert "".join(segments) == text
    assert all(segments)
    assert all(segment.startswith(("<a>", "<b>")) for segment in segments[1:])


class Words:
    """One token per word, in whole texts; says what it was asked to encode."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        self.encoded += texts
        return [[hash(word) % 2**31 for word in text.split()] for text in texts]


def test_a_segment_is_encoded_once() -> None:
    words = Words()
    segments = Segments(("<a>",), words)
    assert segments.count("x <a> b c <a> d <a> d") == 8
    assert words.encoded == ["x ", "<a> b c ", "<a> d ", "<a> d"]
    assert segments.count("x <a> b c <a> d <a> e e") == 9
    assert words.encoded[4:] == ["<a> e e"]
    assert segments.count("") == 0


def test_more_new_text_than_allowed_is_not_encoded() -> None:
    words = Words()
    segments = Segments(("<a>",), words)
    assert segments.count("<a>" + "b " * 50, most_new=100) is None
    assert words.encoded == []
    assert segments.count("<a>" + "b " * 40, most_new=100) == 40
    assert segments.count("<a>" + "b " * 40 + "<a>c", most_new=10) == 41


def test_what_is_remembered_is_bounded_and_what_is_used_stays() -> None:
    words = Words()
    segments = Segments(("<a>",), words, remembered=400)
    for index in range(200):
        segments.count(f"always <a> {index}")
        held = [*segments._young.values(), *segments._old.values()]
        assert sum(map(len, held)) + 40 * len(held) <= 1000
    assert words.encoded.count("always ") == 1
    assert segments.count("always <a> 0") == 3
    assert words.encoded[-1] == "<a> 0"


def test_ids_are_those_of_the_words_in_order() -> None:
    segments = Segments(("<a>",), lambda texts: [[len(word) for word in text.split()] for text in texts])
    for _ in range(2):
        assert list(segments.ids("<a> one word <a> four <a> one word ") or ()) == [3, 3, 4, 3, 4, 3, 3, 4]


def test_a_count_is_complete_when_its_segments_come_from_both_generations() -> None:
    segments = Segments(("<a>",), Words(), remembered=100)
    text = "".join(f"<a> {index} " for index in range(9))
    assert [segments.count(text) for _ in range(5)] == [18] * 5
    assert segments.count(text[: len(text) // 2] + "<a> x") == segments.count(
        text[: len(text) // 2] + "<a> x"
    )


@given(
    st.lists(
        st.lists(st.sampled_from(["<a>", "<b>", "<", "a>", "b", " x"]), max_size=30).map("".join), max_size=8
    ),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 100)), max_size=8),
)
def test_a_text_that_begins_as_another_counts_as_if_it_were_new(
    tails: list[str], grown: list[tuple[int, int]]
) -> None:
    words, texts = Words(), [""]
    segments = Segments(("<a>", "<b>"), words, shortest_prefix=0)
    for tail, (earlier, length) in zip(tails, grown, strict=False):
        texts.append(texts[earlier % len(texts)][:length] + tail)
        assert segments.ids(texts[-1]) == Segments(("<a>", "<b>"), Words()).ids(texts[-1])


def test_a_growing_text_has_one_prefix_and_the_latest_texts_have_theirs() -> None:
    segments = Segments(("<a>",), Words(), shortest_prefix=0)
    text = ""
    for number in range(40):
        text += f"<a> {number} <a> b"
        assert segments.count(text + "<a> end") == 4 * (number + 1) + 2
        assert segments.count(f"{number}" + "<a> side" * 8) == 17
    assert len(segments._prefixes) == 16
    (kept,) = (len(prefix.ids) for prefix in segments._prefixes if prefix.text.startswith("<a>"))
    assert 162 - 2 * 64 <= kept <= 162 - 2 * 8


def test_prefixes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "_PREFIX_CHARACTERS", 300)
    segments = Segments(("<a>",), Words(), shortest_prefix=0)
    for number in range(9):
        assert segments.count(f"{number} " * 50 + "<a> end" * 8) == 66
    assert [len(prefix.text) for prefix in segments._prefixes] == [100, 100, 100]
    assert segments.count("x " * 200 + "<a> end" * 8) == 216
    assert segments._prefixes == []


def test_how_much_two_texts_share() -> None:
    segments = Segments(("<a>",), Words())
    assert segments.shared("<a> b c <a> d e", "<a> b c <a> d f g") == 5
    assert segments.shared("<a> b", "<a> b") == 2
    assert segments.shared("x y", "") == 0


@given(st.lists(st.integers(0, 1), max_size=9), st.lists(st.integers(0, 1), max_size=9))
def test_the_common_prefix(first: list[int], second: list[int]) -> None:
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == len(first) == len(second)


def loaded(kind: Kind) -> Tokenizer:
    content = TOKENIZERS[kind.tokenizer]()
    content["added_tokens"] = kind.added(content)
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_segments_encode_as_the_whole(name: str, data: st.DataObject) -> None:
    """The one claim of the module, on every kind of tokenizer, with text that hypothesis picks."""
    tokenizer = CACHE.setdefault(name, loaded(next(kind for kind in KINDS if kind.tokenizer == name)))
    markers = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    piece = st.one_of(st.text(max_size=5), st.sampled_from([*markers, *(m[:-1] for m in markers), " ", "▁"]))
    text = "".join(data.draw(st.lists(piece, max_size=12)))
    separators = data.draw(st.lists(st.sampled_from(markers), min_size=1, max_size=3, unique=True))
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    parts = tokenizer.encode_batch_fast(split(text, separators), add_special_tokens=False)
    assert [token for part in parts for token in part.ids] == whole


CACHE: dict[str, Tokenizer] = {}


@pytest.mark.parametrize("flag", ["lstrip", "single_word"])
def test_the_check_finds_markers_that_are_not_safe(flag: str) -> None:
    """Even where nobody looked at their flags."""
    kind = next(kind for kind in KINDS if kind.name == "thinking-bytes")
    tokenizer = loaded(Kind("x", kind.tokenizer, "", flags=((flag, True),)))

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [part.ids for part in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    assert not agrees(("<s>", "</s>"), encode, encode)


@pytest.mark.parametrize("flags", [(), (("rstrip", True),)])
def test_the_check_accepts_markers_that_are_safe(flags: tuple[tuple[str, bool], ...]) -> None:
    """What is to the right of a marker is in its own segment."""
    tokenizer = loaded(Kind("x", KINDS[0].tokenizer, "", flags=flags))

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [part.ids for part in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    assert agrees(("<s>", "</s>"), encode, encode)
    assert not agrees(("<s>",), encode, lambda texts: encode([text + " " for text in texts]))
