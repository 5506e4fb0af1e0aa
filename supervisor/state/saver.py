"""Writes small files in a thread, one at a time, the newest content of each: a slow disk delays nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from supervisor.aio import Tasks

log = logging.getLogger("mlxguard.records")


class Saver:
    """Saves by name. What is asked for again before it was written is written once."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._wanted: dict[str, Callable[[], None]] = {}
        self._saving: asyncio.Task[None] | None = None

    def save(self, name: str, write: Callable[[], None]) -> None:
        """Call `write` soon, in a thread, unless a newer one for this name comes first.

        It may raise OSError.
        """
        self._wanted[name] = write
        if self._saving is None or self._saving.done():
            self._saving = self._tasks.start(self._save_all(), "save")

    async def _save_all(self) -> None:
        while self._wanted:
            name = next(iter(self._wanted))
            write = self._wanted.pop(name)
            try:
                await asyncio.to_thread(write)
            except OSError as error:
                log.warning("not_saved", extra={"name_of_file": name, "error": str(error)})
