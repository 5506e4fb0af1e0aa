"""Background tasks of one owner, and a timer that can be reset."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

log = logging.getLogger("mlxguard.tasks")


class Tasks:
    """Starts tasks, keeps them from garbage collection, logs failures, and waits for them at the end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    def cancel(self) -> None:
        """Cancel all running tasks; `finish` waits for them to end."""
        for task in self._running:
            task.cancel()

    async def finish(self) -> None:
        """Wait until every task has ended, including those started in the meantime."""
        while self._running:
            await asyncio.wait(self._running)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", extra={"task": task.get_name()}, exc_info=error)


class Timer:
    """Calls a function once, unless it is set again or cleared before."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_s: float, call: Callable[[], object]) -> None:
        """Call after `delay_s` seconds, instead of what was set before."""
        self.clear()
        self._handle = asyncio.get_running_loop().call_later(max(0.0, delay_s), call)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
