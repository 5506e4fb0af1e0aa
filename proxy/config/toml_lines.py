"""Finds the line of a TOML document that sets a key: tomllib gives values, but not positions.

The document has been parsed by tomllib before, so only the start and end of statements must be found.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping

Path = tuple[str, ...]

#: First strings and comments, in which brackets, `=`, `#` and newlines have no meaning; then those; then the
#: rest.
_TOKEN = re.compile(
    r"""
    (?P<string> \"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\])*" | '[^']*' )
  | (?P<comment> \#[^\n]* )
  | (?P<newline> \n )
  | (?P<open> [\[{] )
  | (?P<close> [\]}] )
  | (?P<equals> = )
  | (?P<other> [^"'\#\n\[\]{}=]+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def lines(document: str) -> Mapping[Path, int]:
    """Path of each table and key, except in inline tables -> the line, from 1, that first names it."""
    found: dict[Path, int] = {}
    table: Path = ()
    for number, left in _statements(document):
        if left.startswith("["):
            table = path = _path(left.strip("[]"))
        else:
            path = table + _path(left)
        for end in range(1, len(path) + 1):
            found.setdefault(path[:end], number)
    return found


def line_of(found: Mapping[Path, int], path: Path) -> int | None:
    """The line of a path, or of the inline table that contains it."""
    for end in range(len(path), 0, -1):
        if path[:end] in found:
            return found[path[:end]]
    return None


def _statements(document: str) -> Iterator[tuple[int, str]]:
    """Line and left side of each statement: `key` of `key = value`, or `[table]`."""
    line = begin = 1
    depth, left, in_value = 0, "", False
    for token in _TOKEN.finditer(document + "\n"):
        kind = token.lastgroup
        if kind == "newline" and depth == 0:
            if left.strip():
                yield begin, left.strip()
            begin, left, in_value = line + 1, "", False
        elif kind == "equals":
            in_value = True
        elif in_value:
            depth += (kind == "open") - (kind == "close")
        elif kind != "comment":
            left += token[0]
        line += token[0].count("\n")


def _path(key: str) -> Path:
    """The parts of a dotted or quoted key, parsed by tomllib."""
    value: object = tomllib.loads(f"{key} = 0")
    parts: list[str] = []
    while isinstance(value, dict):
        (name, value), *_ = value.items()
        parts.append(name)
    return tuple(parts)
