"""Reads and writes small, versioned JSON files: bounded, and replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

#: The version of all files; a file of another version is not used.
VERSION = 1
#: A larger file is not ours: even the crash report of a child that wrote only control characters is smaller.
_MOST_BYTES = 2 * 2**20


class DamagedState(ValueError):
    """Says in one line which file cannot be used, and why."""

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` as a whole: write a temporary file, flush it to disk, rename it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **content}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_document(path: Path) -> dict[str, Any] | None:
    """The content; None if the file is missing. Raises OSError, or DamagedState if it is not ours."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > _MOST_BYTES:
        raise DamagedState(path, f"larger than {_MOST_BYTES} bytes")
    try:
        document = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise DamagedState(path, error) from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise DamagedState(path, f"not of version {VERSION}")
    return document


def read_json(path: Path) -> dict[str, Any] | None:
    """As `read_document`, but a damaged file counts as missing."""
    try:
        return read_document(path)
    except DamagedState:
        return None
