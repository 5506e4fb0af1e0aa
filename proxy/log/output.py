"""Bytes for a terminal or a pipe that may take none just now; writing them never waits.

Behind `| less`, or on a terminal that Ctrl-S has stopped, a write waits until somebody reads on; and in the
loop's thread everything would wait with it. What cannot be written is held, up to a bound.

O_NONBLOCK is no way out: it belongs to the open file, which the shell and all its programs share. So it is
asked first whether there is room, as select(2) tells, and then no more is written than fits: PIPE_BUF bytes
for a pipe (POSIX), and a terminal's queue has more room than that once it says that it has any.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque

#: Bytes that are held: some thousand lines.
_MOST_HELD = 1 << 20


class Output:
    """One at a time may write."""

    def __init__(self, fd: int, *, most_held: int = _MOST_HELD) -> None:
        """`fd`: open as long as this is used."""
        self._fd = fd
        self._most_held = most_held
        self._held = 0
        self._lines: deque[bytes] = deque()  # of the first, so much as has not been written

    def write(self, line: bytes) -> int:
        """Write `line` after what is held, now or when there is room at a later call; how many lines were
        given up: there are too many, or nobody can read them any more.
        """
        if self._held + len(line) > self._most_held:
            return 1 + self._flush(0.0)
        self._lines.append(line)
        self._held += len(line)
        return self._flush(0.0)

    def close(self, within_s: float) -> int:
        """Write what is held, waiting at most so long for room; how many lines were given up."""
        deadline, lost = time.monotonic() + within_s, 0
        while self._lines and (left := deadline - time.monotonic()) > 0:
            lost += self._flush(left)
        return lost + self._give_up()

    def _flush(self, wait_s: float) -> int:
        """`wait_s`: at most, for there to be room. Lines that were given up."""
        try:
            while self._lines and select.select((), (self._fd,), (), wait_s)[1]:
                written = os.write(self._fd, self._lines[0][: select.PIPE_BUF])
                self._held -= written
                if left := self._lines.popleft()[written:]:
                    self._lines.appendleft(left)
                wait_s = 0.0
        except OSError:  # no reader any more, a full disk
            return self._give_up()
        return 0

    def _give_up(self) -> int:
        lost = len(self._lines)
        self._lines.clear()
        self._held = 0
        return lost
