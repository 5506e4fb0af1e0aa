from __future__ import annotations

import io
from typing import Any

import pytest

from proxy.prompt import frames

VALUES: list[Any] = [{}, {"id": 1, "text": "\n\0é"}, [1] * 100_000]


def test_frames_follow_each_other() -> None:
    stream = io.BytesIO(b"".join(map(frames.encode, VALUES)))
    assert [frames.read(stream) for _ in VALUES] == VALUES
    assert frames.read(stream) is None


@pytest.mark.parametrize("size", [1, 3, 1_000, 10_000_000])
def test_frames_in_pieces(size: int) -> None:
    stream, decoder = b"".join(map(frames.encode, VALUES)), frames.Decoder()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [value for piece in pieces for value in decoder.feed(piece)] == VALUES


def test_what_is_no_json_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="unexpected"):
        list(frames.Decoder().feed(b"\0\0\0\1{"))


@pytest.mark.parametrize("length", [0, 3, 4, 9])
def test_a_frame_cut_short_is_the_end(length: int) -> None:
    cut = frames.encode({"id": 1})[:length]
    assert frames.read(io.BytesIO(cut)) is None
    assert not list(frames.Decoder().feed(cut))
