"""The keys in force: the keys file is followed, so that a key can come and go without a restart."""

from __future__ import annotations

import asyncio
import logging

from proxy.config.api_keys import KeysUnreadable, known_keys
from proxy.config.settings import ServerSettings
from proxy.log.masking import mask

log = logging.getLogger("mlxguard.keys")


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
