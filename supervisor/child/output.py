"""The child's output: split into bounded lines, prompt text masked, logged, and the last lines kept.

The server logs whole request bodies when they are not JSON objects, and always at DEBUG. `PromptMask` removes
them before a line goes to the log, a crash report or the ring of last lines.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable

log = logging.getLogger("mlxguard.child")

#: The last lines kept for diagnosis and reports, and the bytes of a line beyond which it is cut.
RING_LINES = 200
LINE_BYTES = 4096

#: How the server's logging starts a record; lines without it continue the record before.
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (?P<level>[A-Z]+) - ")
_ACCESS = re.compile(r'^[0-9a-fA-F.:]+ - - \[[^\]]*\] "(?P<what>[A-Z]+ \S*)')
_NATIVE = re.compile(r"^(libc\+\+abi|terminating|Traceback|\[METAL\]|Fatal Python error)")
#: A warning that the server prints at each start: it is not meant for production, hence this proxy.
_ALWAYS_SAID = re.compile(r"UserWarning: mlx_lm\.server is not recommended|^ {2}warnings\.warn\($")
_SECRET = re.compile(
    r"(Raw body: |(Invalid|Incoming) Request Body: |Outgoing Response: |Failed to parse tool call \((\w+: )?)"
)

#: The first line of socketserver.BaseServer.handle_error when a connection's thread raised, as it does when
#: it writes to a client that has disconnected. The port identifies the gateway's connection.
_CONNECTION_ERROR = re.compile(
    r"Exception occurred during processing of request from \('127\.0\.0\.1', (\d+)\)"
)

#: socketserver.BaseServer.handle_error prints a rule before and after a connection's traceback. A
#: disconnected client is not worth a warning, and each costs thirty lines.
_RULE = "-" * 40
_DISCONNECTED = re.compile(r"(ConnectionResetError|BrokenPipeError|ConnectionAbortedError)\b")
#: A traceback longer than this many lines is logged in parts.
_MAX_TRACEBACK = 100


class PromptMask:
    """Cuts the text of prompts and answers out of the server's log records, continuation lines included."""

    def __init__(self) -> None:
        self._inside = False

    def __call__(self, line: str) -> str | None:
        """Return the line as it may be shown, or None if all of it is masked text."""
        if self._inside and not (_RECORD.match(line) or _ACCESS.match(line) or _NATIVE.match(line)):
            return None
        secret = _SECRET.search(line)
        self._inside = secret is not None
        return line if secret is None else f"{line[: secret.end()]}[masked]"


class Transcript:
    """The child's output as log records of the gateway and a ring of the last lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._mask = PromptMask()
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._traceback: list[str] = []  # of one connection, until its closing rule

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._ring)

    def feed(self, raw: bytes) -> None:
        line = self._mask(raw.decode(errors="replace").rstrip())
        if not line or _is_health_check(line):
            return
        self._ring.append(line)
        self._write(line)
        self._on_line(line)

    def _write(self, line: str) -> None:
        """Log a line at once, or with the rest of a connection's traceback once that is complete."""
        if not self._traceback and line != _RULE:
            log.log(_level(line), "child_output", extra={"line": line})
            return
        self._traceback.append(line)
        if len(self._traceback) == 1 or (line != _RULE and len(self._traceback) < _MAX_TRACEBACK):
            return
        lines, self._traceback = self._traceback, []
        highest = logging.DEBUG if any(map(_DISCONNECTED.match, lines)) else logging.WARNING
        for each in lines:
            log.log(min(_level(each), highest), "child_output", extra={"line": each})


def dropped_connection(line: str) -> int | None:
    """The client's port, if the line says that the server has dropped a connection from this machine."""
    found = _CONNECTION_ERROR.match(line)
    return None if found is None else int(found[1])


def is_answered_post(line: str) -> bool:
    """Whether it is the access line of a POST: the server writes it when it begins to answer."""
    access = _ACCESS.match(line)
    return access is not None and access["what"].startswith("POST ")


def _is_health_check(line: str) -> bool:
    """Whether it is the access line of /health, asked twice a second: they would displace all other lines."""
    access = _ACCESS.match(line)
    return access is not None and access["what"] == "GET /health"


def _level(line: str) -> int:
    """The level of a line here: the server's five INFO lines per request are only for debugging."""
    record = _RECORD.match(line)
    if _ACCESS.match(line) or _ALWAYS_SAID.search(line):
        return logging.DEBUG
    if record is not None and record["level"] in ("DEBUG", "INFO"):
        return logging.DEBUG
    return logging.WARNING  # lines of tracebacks and native code have no level


class Lines(asyncio.Protocol):
    """Splits a pipe into lines of at most `LINE_BYTES`; the rest of a longer line is dropped."""

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
