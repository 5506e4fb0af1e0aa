"""Writes lines to a terminal or pipe without ever waiting for its reader.

Behind `| less`, or on a terminal stopped by Ctrl-S, a write blocks until the reader goes on, and since it
runs in the event loop's thread, the whole gateway would stand still. Lines that cannot be written are held,
up to a limit.

O_NONBLOCK is not an option: it belongs to the open file, which the shell and all its programs share. Instead,
select(2) tells whether there is room, and each write is small enough to fit: PIPE_BUF bytes for a pipe
(POSIX); a terminal's queue has more room than that once select reports any.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque

#: Bytes of lines that are held: some thousand lines.
_MAX_HELD = 1 << 20


class Output:
    """A buffered writer to `fd`, which must stay open. Not thread-safe: the caller holds a lock."""

    def __init__(self, fd: int, *, max_held: int = _MAX_HELD) -> None:
        self._fd = fd
        self._max_held = max_held
        self._held = 0
        self._lines: deque[bytes] = deque()  # the first may be partly written; the rest of it is here

    def write(self, line: bytes) -> int:
        """Queue `line`, and write what fits; returns how many lines were lost (too many, or no reader)."""
        if self._held + len(line) > self._max_held:
            return 1 + self._flush(0.0)
        self._lines.append(line)
        self._held += len(line)
        return self._flush(0.0)

    def close(self, within_s: float) -> int:
        """Write the held lines, waiting at most `within_s` for room; returns how many lines were lost."""
        deadline, lost = time.monotonic() + within_s, 0
        while self._lines and (left := deadline - time.monotonic()) > 0:
            lost += self._flush(left)
        return lost + self._discard()

    def _flush(self, wait_s: float) -> int:
        """Write while there is room, waiting at most `wait_s` for it; returns how many lines were lost."""
        try:
            while self._lines and select.select((), (self._fd,), (), wait_s)[1]:
                written = os.write(self._fd, self._lines[0][: select.PIPE_BUF])
                self._held -= written
                if left := self._lines.popleft()[written:]:
                    self._lines.appendleft(left)
                wait_s = 0.0
        except OSError:  # the reader is gone, or the disk is full
            return self._discard()
        return 0

    def _discard(self) -> int:
        lost = len(self._lines)
        self._lines.clear()
        self._held = 0
        return lost
