"""Log lines: one per event, for people on a terminal, as JSON elsewhere.

Callers name an event and give its facts as fields:

    log = logging.getLogger("mlxguard.relay")
    log.info("answered", extra={"status": 200, "ms": 12})

The area is the logger's name after `mlxguard.`; lines of a request carry its id by themselves. No field
may have prompt text or a key in it; masking keys here is the last guard, not the first. Nothing that
comes from outside can forge a line or move a cursor: control characters are escaped, long values cut.
"""

from __future__ import annotations

import itertools
import json
import logging
import logging.handlers
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TextIO, TypeAlias

import orjson

from proxy.config import LogSettings
from proxy.log_output import Output

#: The id of the request that the current task serves, or "" outside requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_ROOT = "mlxguard"

#: Longest event and field value, in characters; longest traceback; most items of a list.
_LONGEST_VALUE, _LONGEST_TRACEBACK, _MOST_ITEMS = 500, 8_000, 50

#: Controls (C0, DEL, C1), line and paragraph separators, and what reverses the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: A value that needs quotes to be told from its neighbours.
_NEEDS_QUOTES = re.compile(r'[\s"=\\,\[\]]|^$')

#: What every record has; anything else came by `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]+=*")
_MASKED = "[key]"

#: A key shorter than this is masked only where it stands alone, or "a" would mask half of every line.
_SHORT_KEY = 8

#: Named, since a union is made anew each time that it is asked about.
_LISTS = (list, tuple, set, frozenset)
#: Types whose values stand in a line as they are.
_AS_THEY_ARE = frozenset({int, bool, type(None)})

_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31;1"}

#: At the end, seconds for a reader that has paused.
_LAST_S = 0.5

Mask = Callable[[str], str]
Plain: TypeAlias = "bool | int | float | str | list[Plain] | None"


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
    global _mask  # noqa: PLW0603 - logging itself is one per process
    _mask = _Mask(keys)
    human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
    handlers = [_handler(stream)]
    handlers[0].setFormatter(HumanFormatter(_mask, _wants_colour(stream)) if human else JsonFormatter(_mask))
    if settings.file:
        handlers.append(_FileHandler(settings.file, encoding="utf-8"))
        handlers[1].setFormatter(JsonFormatter(_mask))
    logging.raiseExceptions = False
    # What no line of ours tells, and costs a third of each (Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger(_ROOT).setLevel(settings.level.upper())


def _handler(stream: TextIO) -> logging.Handler:
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # it has none, or was closed
        return _StreamHandler(stream)
    return _OutputHandler(fd, stream.encoding)


class _Formatter(logging.Formatter):
    """What both forms share: the parts of a line, masked and bounded."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def event(self, record: logging.LogRecord) -> str:
        return _cut(self._mask(record.getMessage()))

    def fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Plain]]:
        """The request's id, then what the caller gave as `extra`, in its order."""
        if id := request_id.get():
            yield "request_id", self._plain(id)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                yield name, value if type(value) in _AS_THEY_ARE else self._plain(value)

    def traceback(self, record: logging.LogRecord) -> str:
        """The end of the traceback and of the stack, as far as the record has them."""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return self._mask("\n".join(parts))[-_LONGEST_TRACEBACK:]

    def _plain(self, value: object) -> Plain:
        if value is None or isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, _LISTS):
            return [self._plain(item) for item in itertools.islice(value, _MOST_ITEMS)]
        return _cut(self._mask(str(value)))


class JsonFormatter(_Formatter):
    """One JSON object per line, in ASCII, so that nothing in it can end the line or confuse a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Plain] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "area": _area(record),
            "event": self.event(record),
        }
        for name, value in self.fields(record):
            line[f"{name}_" if name in line else name] = value
        traceback = self.traceback(record)
        if traceback:
            line["traceback"] = traceback
        return _json(line)


class HumanFormatter(_Formatter):
    """Time, level, area, event, `name=value` pairs; a traceback follows, each line of it behind a bar."""

    def __init__(self, mask: Mask, colour: bool) -> None:
        super().__init__(mask)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level = record.levelname.lower()
        head = f"{time}.{int(record.msecs):03} {self._coloured(level)} {_area(record):<11}"
        pairs = (f"{name}={_quoted(value)}" for name, value in self.fields(record))
        line = " ".join([head, _escape(self.event(record)), *pairs])
        return "\n  | ".join([line, *map(_escape, self.traceback(record).splitlines())])

    def _coloured(self, level: str) -> str:
        colour = _COLOURS.get(level) if self._colour else None
        return f"\x1b[{colour}m{level:<7}\x1b[0m" if colour else f"{level:<7}"


def _json(line: dict[str, Plain]) -> str:
    """In printable ASCII. orjson takes a tenth of the time, but escapes no other characters than it must."""
    try:
        text = orjson.dumps(line)
    except TypeError:
        return json.dumps(line)
    return text.decode() if text.isascii() and b"\x7f" not in text else json.dumps(line)


def _area(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{_ROOT}.")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}...({len(text)} characters)"


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _quoted(value: Plain) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    text = str(value)
    if not _NEEDS_QUOTES.search(_escape(text)):
        return text
    return '"' + _escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def mask(keys: Iterable[str]) -> None:
    """Mask these keys too from now on; those that were known stay masked."""
    _mask.know(keys)


class _Mask:
    """Replaces the keys and whatever follows `Bearer`."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys: set[str] = set()
        self._anywhere: re.Pattern[str] | None = None
        self.know(keys)

    def know(self, keys: Iterable[str]) -> None:
        self._keys.update(filter(None, keys))
        longest_first = sorted(self._keys, key=len, reverse=True)
        patterns = (
            re.escape(key) if len(key) >= _SHORT_KEY else rf"(?<![\w-]){re.escape(key)}(?![\w-])"
            for key in longest_first
        )
        self._anywhere = re.compile("|".join(patterns)) if longest_first else None

    def __call__(self, text: str) -> str:
        if "bearer" in text.lower():  # a tenth of what the pattern takes for each of a line's twenty values
            text = _BEARER.sub(rf"\1{_MASKED}", text)
        return self._anywhere.sub(_MASKED, text) if self._anywhere else text


_mask = _Mask()


def _wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
