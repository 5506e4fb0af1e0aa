"""Background tasks of one owner, and a timer that can be reset.

Every task that outlives the call which starts it is started here, so that none ends unnoticed; a test allows
no other way (tests/test_project.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

log = logging.getLogger("mlxguard.tasks")


#: Seconds between the failure of work that goes on for ever and its next start.
_AGAIN_S = 5.0


class Tasks:
    """Starts tasks, keeps them from garbage collection, logs failures, and waits for them at the end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(
        self,
        work: Coroutine[None, None, None],
        name: str,
        on_failure: Callable[[BaseException], object] = lambda _: None,
    ) -> asyncio.Task[None]:
        """Start a task. A failure is logged, then handed to `on_failure`; a cancellation is none."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(lambda ended: self._on_done(ended, on_failure))
        return task

    def repeat(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Start work that goes on until it is cancelled; it is started again after a failure."""
        return self.start(_repeated(work, name), name)

    def cancel(self) -> None:
        """Cancel all running tasks; `finish` waits for them to end."""
        for task in self._running:
            task.cancel()

    async def finish(self) -> None:
        """Wait until every task has ended, including those started in the meantime."""
        while self._running:
            await asyncio.wait(self._running)

    def _on_done(self, task: asyncio.Task[None], on_failure: Callable[[BaseException], object]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", extra={"task": task.get_name()}, exc_info=error)
            on_failure(error)


async def _repeated(work: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        try:
            return await work()
        except Exception:  # whatever it was: what this work watches must not stay unwatched
            log.exception("task_failed", extra={"task": name, "again_s": _AGAIN_S})
        await asyncio.sleep(_AGAIN_S)


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
