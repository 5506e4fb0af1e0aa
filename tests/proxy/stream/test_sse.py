"""The event splitter: any split of the bytes gives the same events, at linear cost."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream import sse


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


lines = st.binary(max_size=40).map(lambda raw: b":" + raw.replace(b"\n", b""))


@given(st.lists(lines, max_size=8), lines, st.lists(st.integers(min_value=0), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_events(
    events: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    stream = b"".join(event + sse.END for event in events) + rest
    splitter = sse.EventSplitter()

    found = [event for piece in pieces_of(stream, cuts) for event in splitter.feed(piece)]

    assert found == events
    assert splitter.feed(sse.END) == [rest]


def test_byte_by_byte() -> None:
    splitter = sse.EventSplitter()

    found = [splitter.feed(bytes([byte])) for byte in b"data: a\n\ndata: b\n\n"]

    assert [event for events in found for event in events] == [b"data: a", b"data: b"]
    assert found[8] == [b"data: a"], "an event is out with its last byte, not with the next event"


def test_events_of_one_read_come_together() -> None:
    assert sse.EventSplitter().feed(b": a\n\ndata: b\n\ndata: c") == [b": a", b"data: b"]


def test_an_event_of_megabytes_in_small_pieces_is_joined_once() -> None:
    splitter = sse.EventSplitter()
    piece = b"x" * 1000
    for _ in range(20_000):
        assert splitter.feed(piece) == []

    (event,) = splitter.feed(b"\n\n")

    assert len(event) == 20_000_000


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = sse.EventSplitter()
    splitter.feed(b"x" * 100)

    with pytest.raises(sse.Malformed):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (b": keepalive 512/2048", (512, 2048)),
        (b": keepalive 0/1", (0, 1)),
        (b": keepalive", None),
        (b": keepalive a/b", None),
        (b": keepalive 5", None),
        (b": something 1/2", None),
    ],
)
def test_prefill_progress(line: bytes, progress: tuple[int, int] | None) -> None:
    assert sse.prefill_progress(line) == progress


def test_what_only_the_standard_library_reads_is_read_too() -> None:
    assert sse.loads(b'{"a": "\\ud800", "b": -Infinity}') == {"a": "\ud800", "b": -math.inf}
    assert sse.dumps({"a": "\ud800"}) == b'{"a": "\\ud800"}'


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]", b"null", b"\xff"])
def test_what_is_no_object_is_malformed(payload: bytes) -> None:
    with pytest.raises(sse.Malformed):
        sse.loads(payload)


def test_serialised() -> None:
    assert sse.comment("queued position=3") == b": queued position=3\n\n"
    assert sse.event({"a": 1}) == b'data: {"a":1}\n\n'


def test_what_nests_too_deep_is_malformed() -> None:
    with pytest.raises(sse.Malformed):
        sse.loads(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(sse.Malformed):
        sse.dumps({"a": nested})


def test_whole_events_are_told_from_others_and_nothing_is_kept_of_them() -> None:
    splitter = sse.EventSplitter()
    assert splitter.whole(b"a\n\nb\n\n") == [b"a", b"b"]
    assert splitter.whole(b"a\n\nb") is None
    assert splitter.feed(b"c") == []
    assert splitter.whole(b"a\n\n") is None, "it ends what began before"
    assert splitter.feed(b"\n\n") == [b"c"]
