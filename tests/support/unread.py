"""A pipe that nobody reads, until they do: what standard error is behind a pager."""

from __future__ import annotations

import os
import select
from contextlib import suppress


class Pipe:
    """Its writing end waits, as a shell gives it to a program."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fill(self) -> int:
        """Until nothing goes in; how much did."""
        os.set_blocking(self.writer, False)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += os.write(self.writer, b"-" * select.PIPE_BUF)
        os.set_blocking(self.writer, True)
        return filled

    def read(self) -> bytes:
        """All that is in it."""
        parts = []
        with suppress(BlockingIOError):
            while part := os.read(self.reader, 1 << 16):
                parts.append(part)
        return b"".join(parts)
