"""Writes small files in a thread, so that a slow disk does not delay the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from supervisor.aio import Tasks

log = logging.getLogger("mlxguard.state")


class Saver:
    """Saves one file at a time; a newer content of a name replaces one that has not been written yet."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._pending: dict[str, Callable[[], None]] = {}
        self._saving: asyncio.Task[None] | None = None

    def save(self, name: str, write: Callable[[], None]) -> None:
        """Call `write`, which may raise OSError, soon in a thread, unless a newer one replaces it."""
        self._pending[name] = write
        if self._saving is None or self._saving.done():
            self._saving = self._tasks.start(self._save_all(), "save")

    async def _save_all(self) -> None:
        while self._pending:
            name = next(iter(self._pending))
            write = self._pending.pop(name)
            try:
                await asyncio.to_thread(write)
            except Exception as error:  # noqa: BLE001 - the other files are written all the same
                log.warning("state_not_saved", extra={"name_of_file": name, "error": str(error)})
