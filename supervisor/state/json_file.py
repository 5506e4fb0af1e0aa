"""Reads and writes small JSON files atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` as a whole. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **content}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None if there is none that this version understands."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(content, dict) and content.get("version") == VERSION
    return content if known else None
