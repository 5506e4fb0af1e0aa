"""Reads and writes small, versioned JSON files: replaced as a whole, bounded, and never through a link."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

#: The version of all files; a file of another version is not used.
VERSION = 1
#: A larger file is not ours: even the crash report of a child that wrote only control characters is smaller.
MOST_BYTES = 2 * 2**20


class DamagedState(ValueError):
    """Says in one line which file cannot be used, and why."""

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` as a whole: a temporary file is flushed to disk and renamed; only its owner can read it.

    The folder is made if it is gone. The temporary file has a name that cannot be guessed, and is never
    opened through a link.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **content}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)


def read_document(path: Path) -> dict[str, Any] | None:
    """The content; None if the file is missing.

    Raises:
        OSError: it cannot be read.
        DamagedState: it is no regular file, too large, no JSON object, nested too deeply, or of another
            version.
    """
    try:
        # O_NONBLOCK: opening a pipe that someone has put here must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():
            raise DamagedState(path, "is a link") from error
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DamagedState(path, "is no regular file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DamagedState(path, f"larger than {MOST_BYTES} bytes")
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
