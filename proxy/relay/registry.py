"""The registry of running and recent requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy.job import Job

#: This many finished requests stay visible.
_RECENT = 50


class Registry:
    """Every completion request from acceptance to its end, and the last finished ones."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Job, asyncio.Task[object] | None]] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def track(self, job: Job) -> Iterator[None]:
        """List `job` as running for the length of the block."""
        self._running[job.answer.id] = job, asyncio.current_task()
        self._empty.clear()
        try:
            yield
        finally:
            del self._running[job.answer.id]
            self._recent.append(job.summary())
            if not self._running:
                self._empty.set()

    async def emptied(self) -> None:
        """Wait until nothing is running."""
        await self._empty.wait()

    def __len__(self) -> int:
        return len(self._running)

    def cancel(self, id: str) -> bool:
        """Cancel the requests with this answer id or request id; False if there is none.

        Each ends as the error contract says (docs/errors.md).
        """
        found = [each for each in self._running.values() if id in (each[0].answer.id, each[0].request_id)]
        for job, task in found:
            job.cancelled = True
            if task is not None:
                task.cancel()
        return bool(found)

    def jobs(self) -> list[Job]:
        """The running jobs in order of acceptance."""
        return [job for job, _ in self._running.values()]

    def running(self) -> list[dict[str, Any]]:
        """Summaries of the running jobs in order of acceptance."""
        return [job.summary() for job in self.jobs()]

    def recent(self) -> list[dict[str, Any]]:
        """Summaries of the last finished jobs, the newest first."""
        return list(reversed(self._recent))
