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

#: The version of all files; a file of another version is ignored.
VERSION = 1

#: A larger file is not ours: the largest, a crash report, stays well below a tenth of this.
MOST_BYTES = 4 * 2**20


class NotOurs(ValueError):
    """The file has no content that this program has written; the text says why, without the content."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` as a whole, readable by its owner alone: a temporary file, flushed to disk, is renamed.

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


def read_json(path: Path) -> dict[str, Any] | None:
    """The content; None if the file is missing, damaged, or of another version. Raises OSError."""
    try:
        return read_document(path)
    except NotOurs:
        return None


def read_document(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
    """The content; None if there is no such file.

    Raises:
        OSError: it cannot be read.
        NotOurs: it is no regular file, too large, no JSON object, nested too deeply, or of another version.
    """
    try:
        # O_NONBLOCK: opening a pipe that someone has put here must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():
            raise NotOurs("is a link") from error
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotOurs("is no regular file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise NotOurs(f"larger than {most_bytes} bytes")
    try:
        document = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise NotOurs(str(error)) from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise NotOurs(f"not of version {VERSION}")
    return document
