"""Formats log records as JSON lines or as text for a person."""

from __future__ import annotations

import itertools
import json
import logging
import logging.handlers
import math
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TypeAlias

import orjson

#: Name of the logger above all of ours.
ROOT = "mlxguard"

#: Longest event and field value, in characters; longest traceback; most items of a list.
_LONGEST_VALUE, _LONGEST_TRACEBACK, _MOST_ITEMS = 500, 8_000, 50

#: The id of the request that the current task serves, or "" outside requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")

#: Controls (C0, DEL, C1), line and paragraph separators, and what reverses the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: A value that needs quotes to be told from its neighbours.
_NEEDS_QUOTES = re.compile(r'[\s"=\\,\[\]]|^$')

#: What every record has; anything else came by `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

#: Named, since a union is made anew each time that it is asked about.
_LISTS = (list, tuple, set, frozenset)

#: Types whose values stand in a line as they are.
_AS_THEY_ARE = frozenset({int, bool, type(None)})

_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31;1"}

Mask = Callable[[str], str]

Plain: TypeAlias = "bool | int | float | str | list[Plain] | None"


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
    return record.name.removeprefix(f"{ROOT}.")


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
