"""The keys that let clients in: `KEY` or `NAME:KEY`, from proxy.toml and from a file of their own.

The name is what logs, metrics and the queue show; the key itself is shown nowhere. The file is followed while
the proxy runs, so that a key can be given or taken away without a restart.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from proxy.config import ApiKey, ServerSettings
from proxy.logs import mask

log = logging.getLogger("mlxguard.keys")

_ENTRY = TypeAdapter(ApiKey)


class KeysUnreadable(Exception):
    """The keys file cannot be used; `line` is where, or None for the file as a whole."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def known_keys(server: ServerSettings) -> Mapping[str, str]:
    """Every key -> its name; keys without one are called `key-1`, `key-2`, in order.

    Raises:
        KeysUnreadable: `api_keys_file` cannot be read, or is open to others.
    """
    listed = server.api_keys
    return _named([*listed, *(read(server.api_keys_file) if server.api_keys_file else ())])


class KeyRing:
    """The keys in force: `names` is one mapping for good, whose content follows the file."""

    def __init__(self, server: ServerSettings) -> None:
        """Raises KeysUnreadable, as `known_keys` does."""
        self._server = server
        self._stamp = self._look()
        self.names: dict[str, str] = dict(known_keys(server))

    def refresh(self) -> bool:
        """Take over a file that has changed; True if there was something to take over.

        Raises:
            KeysUnreadable: it cannot be used as it is now; told once, and the keys stay as they were. So
                neither a slip nor an empty file ever lets everyone in.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        fresh = known_keys(self._server)
        if not fresh:
            raise KeysUnreadable("has no key in it")
        self.names.clear()
        self.names.update(fresh)
        return True

    def _look(self) -> tuple[int, ...] | None:
        """What changes when the file does, its mode included; None while it cannot be seen."""
        path = self._server.api_keys_file
        try:
            seen = path.stat() if path else None
        except OSError:
            return None
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_mode) if seen else None


async def follow(ring: KeyRing, *, every_s: float = 1.0) -> None:
    """Keep `ring` up to date, and its keys out of the log, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            if ring.refresh():
                mask(ring.names)
                log.info("keys_reloaded", extra={"keys": len(ring.names)})
        except KeysUnreadable as fault:
            log.error("keys_not_reloaded", extra={"reason": str(fault), "line": fault.line})


def read(path: Path) -> tuple[str, ...]:
    """The entries of a keys file: one per line; empty lines and lines that begin with # are passed over.

    Raises:
        KeysUnreadable: as it says; the text of a faulty line is not repeated.
    """
    try:
        mode = path.stat().st_mode
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
