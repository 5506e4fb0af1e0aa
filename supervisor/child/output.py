"""What the child writes: bounded lines, no prompt text in them, the last ones kept.

The server logs whole request bodies when they are not JSON objects, and at DEBUG always. `PromptMask` takes
them out before a line goes to the log, a crash report or the ring.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable

log = logging.getLogger("mlxguard.child")

RING_LINES = 200
LINE_BYTES = 4096

#: How the server's logging starts a record; what follows without it continues the record before.
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (?P<level>[A-Z]+) - ")
_ACCESS = re.compile(r'^[0-9a-fA-F.:]+ - - \[[^\]]*\] "(?P<what>[A-Z]+ \S*)')
_NATIVE = re.compile(r"^(libc\+\+abi|terminating|Traceback|\[METAL\]|Fatal Python error)")
#: What the server says at each start; that it is not for production is why there is a guard in front of it.
_ALWAYS_SAID = re.compile(r"UserWarning: mlx_lm\.server is not recommended|^ {2}warnings\.warn\($")
_SECRET = re.compile(
    r"(Raw body: |(Invalid|Incoming) Request Body: |Outgoing Response: |Failed to parse tool call \((\w+: )?)"
)


#: What socketserver.BaseServer.handle_error says first when a connection's thread raised, as it does when it
#: writes to a client that has left. Ours are told apart by their ports.
_BROKEN = re.compile(r"Exception occurred during processing of request from \('127\.0\.0\.1', (\d+)\)")

#: socketserver.BaseServer.handle_error puts a rule before and after what a connection's thread raised. A
#: client that left is no news, and each costs thirty lines.
_RULE = "-" * 40
_CLIENT_LEFT = re.compile(r"(ConnectionResetError|BrokenPipeError|ConnectionAbortedError)\b")
_LONGEST_TROUBLE = 100


class PromptMask:
    """Cuts prompt and answer text out of the server's log records, continued lines included."""

    def __init__(self) -> None:
        self._inside = False

    def __call__(self, line: str) -> str | None:
        """The line as it may be shown, or None if all of it belongs to a masked text."""
        if self._inside and not (_RECORD.match(line) or _ACCESS.match(line) or _NATIVE.match(line)):
            return None
        secret = _SECRET.search(line)
        self._inside = secret is not None
        return line if secret is None else f"{line[: secret.end()]}[masked]"


class Transcript:
    """The child's output as log records of ours and a ring of the last lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._mask = PromptMask()
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._trouble: list[str] = []  # of one connection, as far as it has been told

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._ring)

    def feed(self, raw: bytes) -> None:
        line = self._mask(raw.decode(errors="replace").rstrip())
        if not line or _ours(line):
            return
        self._ring.append(line)
        self._write(line)
        self._on_line(line)

    def _write(self, line: str) -> None:
        """To the log, at once or, from the trouble of a connection, when all of it has been told."""
        if not self._trouble and line != _RULE:
            log.log(_level(line), "child_output", extra={"line": line})
            return
        self._trouble.append(line)
        if len(self._trouble) == 1 or (line != _RULE and len(self._trouble) < _LONGEST_TROUBLE):
            return
        told, self._trouble = self._trouble, []
        most = logging.DEBUG if any(map(_CLIENT_LEFT.match, told)) else logging.WARNING
        for each in told:
            log.log(min(_level(each), most), "child_output", extra={"line": each})


def broken_connection(line: str) -> int | None:
    """The client's port, if the line tells that the server has given up a connection from this machine."""
    told = _BROKEN.match(line)
    return None if told is None else int(told[1])


def _ours(line: str) -> bool:
    """/health is asked twice a second by us; its access lines would push everything else out."""
    access = _ACCESS.match(line)
    return access is not None and access["what"] == "GET /health"


def _level(line: str) -> int:
    """What the server says of each request (five lines at INFO) is for debugging here."""
    record = _RECORD.match(line)
    if _ACCESS.match(line) or _ALWAYS_SAID.search(line):
        return logging.DEBUG
    if record is not None and record["level"] in ("DEBUG", "INFO"):
        return logging.DEBUG
    return logging.WARNING  # tracebacks and native code have no level of their own


class Lines(asyncio.Protocol):
    """Splits a pipe into lines of at most `LINE_BYTES`; the rest of a longer one is dropped."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._skipping = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._emit(line)
            self._skipping = False
        self._rest = rest
        if len(rest) > LINE_BYTES:
            self._emit(rest)
            self._rest, self._skipping = b"", True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""
        if not self.ended.done():
            self.ended.set_result(None)

    def _emit(self, line: bytes) -> None:
        if not self._skipping:
            self._on_line(line[:LINE_BYTES])
