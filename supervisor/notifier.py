"""Announces changes of state to tasks that wait for the next one and to subscribed callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.child.generation import Change


class Notifier:
    """Announces changes; for use in the event loop's thread only."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call `callback` soon after each change, in order."""
        self._callbacks.append(callback)

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def announce(self, change: Change) -> None:
        """Wake waiters and schedule callbacks, whose errors must not interrupt the caller."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for callback in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, change)
