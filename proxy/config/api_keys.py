"""API keys of clients: entries `KEY` or `NAME:KEY`, from proxy.toml and from a file.

Logs, metrics and the queue show the name. The key itself is never shown.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from proxy.config.settings import ApiKey, ServerSettings

_ENTRY = TypeAdapter(ApiKey)


class KeysUnreadable(Exception):
    """The keys file cannot be used; `line` is the faulty line, or None for the whole file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def known_keys(server: ServerSettings) -> Mapping[str, str]:
    """Every key -> its name; keys without a name are called `key-1`, `key-2` and so on.

    Raises:
        KeysUnreadable: `api_keys_file` cannot be read, or is open to others.
    """
    return _named([*server.api_keys, *(read(server.api_keys_file) if server.api_keys_file else ())])


def read(path: Path) -> tuple[str, ...]:
    """The entries of a keys file, one per line; empty lines and lines that begin with # are skipped.

    Raises:
        KeysUnreadable: with the reason, which does not repeat the text of a faulty line.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise KeysUnreadable("is no regular file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysUnreadable(getattr(error, "strerror", None) or "is not UTF-8 text") from error
    if stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeysUnreadable(f"is open to other users (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}")
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return tuple(_entry(line, number) for number, line in numbered if line and not line.startswith("#"))


def _entry(line: str, number: int) -> str:
    try:
        return _ENTRY.validate_python(line)
    except ValidationError as error:
        raise KeysUnreadable(f"must be {error.errors()[0]['msg']}", number) from None


def _named(entries: Iterable[str]) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        name, colon, key = entry.rpartition(":")
        names.setdefault(key, name if colon else f"key-{number}")
    return names
