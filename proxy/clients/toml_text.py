"""Pure. Merges values into TOML text: other statements, comments and order stay."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.clients.merging import NotMergeable, overlaid
from proxy.config.toml_lines import Path, lines


def render(values: Mapping[str, Any]) -> str:
    """The text of a new file. Strings, numbers, switches and tables of them are supported."""
    return merge("", values)


def parse(text: str) -> dict[str, Any]:
    """The data. Raises NotMergeable."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotMergeable(f"it is not TOML: {error}") from error


def merge(text: str, values: Mapping[str, Any]) -> str:
    """The text with the values laid over it. Raises NotMergeable."""
    before = parse(text)
    rows = text.splitlines()
    new: list[str] = []  # top-level keys, which must come before any table
    for path, value in _leaves((), values):
        found = lines("\n".join(rows))
        if path in found:
            _replace(rows, found[path] - 1, value)
        elif len(path) == 1:
            new.append(f"{_key(path)} = {_literal(value)}")
        else:
            headers = (number for number, row in enumerate(rows, 1) if _is_header(row, path[:-1]))
            table = next(headers, None)
            if table is None:
                rows += [*([""] if rows or new else []), f"[{_key(path[:-1])}]"]
                table = len(rows)
            rows.insert(_end_of_table(rows, table), f"{_key(path[-1:])} = {_literal(value)}")
    if new and rows and rows[0]:
        rows.insert(0, "")
    merged = "\n".join([*new, *rows]) + "\n"
    if parse(merged) != overlaid(before, values):
        raise NotMergeable("its layout is unusual")
    return merged


def _leaves(path: Path, values: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves((*path, key), value)
        else:
            yield (*path, key), value


def _replace(rows: list[str], index: int, value: Any) -> None:
    """Replace the value of the statement that begins in a row; a comment after it stays."""
    end = index + 1
    while end < len(rows) and not _parses("\n".join(rows[index:end])):
        end += 1
    row = rows[index]
    marks = (at for at, letter in enumerate(row) if letter == "#" and _parses(row[:at]))
    comment = next((f"  {row[at:]}" for at in marks), "")
    rows[index:end] = [f"{row.partition('=')[0].rstrip()} = {_literal(value)}{comment}"]


def _is_header(row: str, table: Path) -> bool:
    """Whether a row is `[table]`, not a key or a deeper table that names it too."""
    inner: Any = tomllib.loads(row) if row.lstrip().startswith("[") and _parses(row) else None
    for part in table:
        inner = inner.get(part) if isinstance(inner, dict) else None
    return isinstance(inner, dict) and not inner


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _end_of_table(rows: list[str], table: int) -> int:
    """The index after the last statement of a table whose header is row number `table`."""
    ends = (at for at in range(table, len(rows)) if rows[at].lstrip().startswith("["))
    end = next(ends, len(rows))
    while end > table and (not rows[end - 1].strip() or rows[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _key(path: Path) -> str:
    bare = (part.replace("-", "").replace("_", "").isalnum() and part.isascii() for part in path)
    return ".".join(part if plain else json.dumps(part) for part, plain in zip(path, bare, strict=True))


def _literal(value: Any) -> str:
    """JSON's strings, numbers and switches are TOML's too."""
    return json.dumps(value, ensure_ascii=False)
