from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from proxy import frames

VALUES: list[Any] = [{}, {"id": 1, "text": "\n\0é"}, [1] * 100_000]


def test_frames_follow_each_other() -> None:
    stream = io.BytesIO(b"".join(map(frames.encode, VALUES)))
    assert [frames.read(stream) for _ in VALUES] == VALUES
    assert frames.read(stream) is None


async def test_frames_follow_each_other_in_asyncio() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"".join(map(frames.encode, VALUES)))
    stream.feed_eof()
    assert [await frames.read_async(stream) for _ in VALUES] == VALUES
    assert await frames.read_async(stream) is None


@pytest.mark.parametrize("length", [0, 3, 4, 9])
async def test_a_frame_cut_short_is_the_end(length: int) -> None:
    cut = frames.encode({"id": 1})[:length]
    assert frames.read(io.BytesIO(cut)) is None
    stream = asyncio.StreamReader()
    stream.feed_data(cut)
    stream.feed_eof()
    assert await frames.read_async(stream) is None
