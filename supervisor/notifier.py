"""Who is told of changes: those who wait for the next one, and those who asked to be called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.child.generation import Change


class Notifier:
    """All for the event loop's thread."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call back soon after each change, in order."""
        self._callbacks.append(callback)

    async def wait(self) -> None:
        """Until the next change."""
        await self._changed.wait()

    def tell(self, change: Change) -> None:
        """Wake and call; a fault of theirs must not stop who tells half-way."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for callback in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, change)
