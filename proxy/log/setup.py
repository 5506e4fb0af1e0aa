"""Log lines: one per event, for people on a terminal, as JSON elsewhere.

Callers name an event and give its facts as fields:

    log = logging.getLogger("mlxguard.relay")
    log.info("answered", extra={"status": 200, "ms": 12})

The area is the logger's name after `mlxguard.`; lines of a request carry its id by themselves. No field
may have prompt text or a key in it; masking keys here is the last guard, not the first. Nothing that
comes from outside can forge a line or move a cursor: control characters are escaped, long values cut.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import TextIO

from proxy.config.settings import LogSettings
from proxy.log.format import ROOT, HumanFormatter, JsonFormatter
from proxy.log.masking import MASK
from proxy.log.output import Output

#: At the end, seconds for a reader that has paused.
_LAST_S = 0.5


class _Counted(logging.Handler):
    """Counts the lines that cannot be written (a full disk, a closed pipe): they must not end the proxy."""

    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:
        _Counted.lost += 1


class _StreamHandler(_Counted, logging.StreamHandler[TextIO]):
    """For streams that are no files of the system's."""


class _OutputHandler(_Counted):
    """For a terminal or a pipe, which somebody may stop reading; see log_output.py."""

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
        _Counted.lost += self._output.close(_LAST_S)
        super().close()


class _FileHandler(_Counted, logging.handlers.WatchedFileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # reopening after a rotation is outside the guard of logging itself
            self.handleError(record)


def new_request_id() -> str:
    """An id for a request that brought none."""
    return f"req-{token_hex(8)}"


def lost_lines() -> int:
    """How many lines could not be written since the start."""
    return _Counted.lost


def setup(settings: LogSettings, stream: TextIO | None = None, keys: Iterable[str] = ()) -> None:
    """Send every event to `stream` (stderr), and to the file if one is set. `keys` are masked everywhere.

    Raises:
        OSError: the file cannot be opened.
    """
    stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - None if it was closed before
    MASK.reset(keys)
    human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
    handlers = [_handler(stream)]
    handlers[0].setFormatter(HumanFormatter(MASK, _wants_colour(stream)) if human else JsonFormatter(MASK))
    if settings.file:
        handlers.append(_FileHandler(settings.file, encoding="utf-8"))
        handlers[1].setFormatter(JsonFormatter(MASK))
    logging.raiseExceptions = False
    # What no line of ours tells, and costs a third of each (Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger(ROOT).setLevel(settings.level.upper())


def _handler(stream: TextIO) -> logging.Handler:
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # it has none, or was closed
        return _StreamHandler(stream)
    return _OutputHandler(fd, stream.encoding)


def _wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
