"""Sets up logging: where lines go, in which format, and how lines that cannot be written are counted."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from secrets import token_hex
from typing import TextIO

from proxy.config.settings import LogSettings
from proxy.log.format import ROOT, HumanFormatter, JsonFormatter
from proxy.log.masking import MASK
from proxy.log.output import Output

#: Seconds that closing the log waits for a reader that has paused.
_CLOSE_S = 0.5


class _Counted(logging.Handler):
    """Counts lines that cannot be written (full disk, closed pipe), so that they do not end the gateway."""

    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:
        _Counted.lost += 1


class _StreamHandler(_Counted, logging.StreamHandler[TextIO]):
    """For streams without a file descriptor."""


class _OutputHandler(_Counted):
    """For a terminal or a pipe, whose reader may pause."""

    def __init__(self, fd: int, encoding: str) -> None:
        super().__init__()
        self._output, self._encoding = Output(fd), encoding

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")
            _Counted.lost += self._output.write(line)
        except Exception:  # noqa: BLE001 - as logging's own handlers do: a field's __str__ may raise anything
            self.handleError(record)

    def close(self) -> None:
        _Counted.lost += self._output.close(_CLOSE_S)
        super().close()


class _FileHandler(_Counted, logging.handlers.WatchedFileHandler):
    def _open(self) -> TextIOWrapper:
        """Make the file readable by its owner alone, as the names of clients are in it."""
        fd = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(fd, "a", encoding=self.encoding)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # logging itself does not catch errors of reopening after a rotation
            self.handleError(record)


def new_request_id() -> str:
    """An id for a request whose client sent none."""
    return f"req-{token_hex(8)}"


def lost_lines() -> int:
    """The number of lines that could not be written since the start."""
    return _Counted.lost


def setup(settings: LogSettings, stream: TextIO | None = None, keys: Iterable[str] = ()) -> None:
    """Log to `stream` (default stderr), and to `settings.file` if it is set, with `keys` masked in both.

    Raises OSError if the file cannot be opened.
    """
    stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - None if it was closed
    MASK.reset(keys)
    human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    handlers = [_handler(stream)]
    handlers[0].setFormatter(HumanFormatter(MASK, colour) if human else JsonFormatter(MASK))
    if settings.file:
        handlers.append(_FileHandler(settings.file, encoding="utf-8"))
        handlers[1].setFormatter(JsonFormatter(MASK))
    logging.raiseExceptions = False
    # No line of ours has these facts, and they take a third of each call (Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger(ROOT).setLevel(settings.level.upper())


def _handler(stream: TextIO) -> logging.Handler:
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # it has no descriptor, or was closed
        return _StreamHandler(stream)
    return _OutputHandler(fd, stream.encoding)
