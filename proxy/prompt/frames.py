"""Frames between the gateway and its worker: four bytes of length, big-endian, then JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

_HEADER = struct.Struct(">I")


def encode(value: Any) -> bytes:
    """`value` as one frame of at most 4 GiB, far above the largest request body."""
    body = orjson.dumps(value)
    return _HEADER.pack(len(body)) + body


def read(stream: BinaryIO) -> Any | None:
    """The value of the next frame, or None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    body = stream.read(length)
    return orjson.loads(body) if len(body) == length else None


class Decoder:
    """Reads frames from a stream that arrives in pieces, in time linear in its length."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values that `data` completes. Iterate over all of them. Raises ValueError for invalid JSON."""
        held = self._held
        held += data
        while len(held) >= _HEADER.size:
            end = _HEADER.size + _HEADER.unpack_from(held)[0]
            if len(held) < end:
                return
            body = bytes(held[_HEADER.size : end])
            del held[:end]
            yield orjson.loads(body)
