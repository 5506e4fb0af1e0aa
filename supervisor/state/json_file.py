"""Reads and writes small, versioned JSON files atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The version of all files; a file of another version is ignored.
VERSION = 1


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


def read_json(path: Path) -> dict[str, Any] | None:
    """The content; None if the file is missing, unreadable as JSON, or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(content, dict) and content.get("version") == VERSION
    return content if known else None
