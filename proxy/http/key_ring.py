"""The API keys in force: follows the keys file, so that keys can change without a restart."""

from __future__ import annotations

import asyncio
import logging

from proxy.config.api_keys import KeysUnreadable, known_keys
from proxy.config.settings import ServerSettings
from proxy.log.masking import MASK

log = logging.getLogger("mlxguard.keys")


class KeyRing:
    """The keys in force.

    `keys`: key -> name of its client. The same mapping for the life of the gateway, changed in place.
    """

    def __init__(self, server: ServerSettings) -> None:
        """Raises KeysUnreadable, as `known_keys` does."""
        self._server = server
        self._signature = self._read_signature()
        self.keys: dict[str, str] = dict(known_keys(server))

    def refresh(self) -> bool:
        """Load the keys file if it has changed; returns whether it had.

        Raises:
            KeysUnreadable: the changed file cannot be used, or has no key; raised once per change. The old
                keys stay in force, so that neither a mistake nor an empty file opens the gateway to everyone.
        """
        signature = self._read_signature()
        if signature == self._signature:
            return False
        self._signature = signature
        fresh = known_keys(self._server)
        if not fresh:
            raise KeysUnreadable("has no key in it")
        self.keys.clear()
        self.keys.update(fresh)
        return True

    def _read_signature(self) -> tuple[int, ...] | None:
        """File metadata that changes with the file or its mode; None while it cannot be read."""
        path = self._server.api_keys_file
        try:
            found = path.stat() if path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode) if found else None


async def follow(ring: KeyRing, *, every_s: float = 1.0) -> None:
    """Refresh `ring` periodically, and mask its new keys in the log, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            if ring.refresh():
                MASK.add(ring.keys)
                log.info("keys_reloaded", extra={"keys": len(ring.keys)})
        except KeysUnreadable as fault:
            log.error("keys_not_reloaded", extra={"reason": str(fault), "line": fault.line})
