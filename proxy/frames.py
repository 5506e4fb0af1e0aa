"""Frames between the gateway and its worker processes: four bytes of length, big-endian, then JSON."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, BinaryIO

import orjson

_HEADER = struct.Struct(">I")


def encode(value: Any) -> bytes:
    """`value` as one frame. At most 4 GiB, far above the largest request body."""
    body = orjson.dumps(value)
    return _HEADER.pack(len(body)) + body


def read(stream: BinaryIO) -> Any | None:
    """The next frame, or None where the stream ends."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    body = stream.read(length)
    return orjson.loads(body) if len(body) == length else None


async def read_async(stream: asyncio.StreamReader) -> Any | None:
    """The same from an asyncio stream."""
    try:
        (length,) = _HEADER.unpack(await stream.readexactly(_HEADER.size))
        return orjson.loads(await stream.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
