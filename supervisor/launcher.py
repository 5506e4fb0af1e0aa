"""From the wish for a child to its process: what to run, memory that is back, and the start itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import aiohttp

from supervisor.child.attempt import Attempt
from supervisor.child.memory_wait import memory_back
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.crash_reports import CrashReports
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.diagnosis import Diagnosis
from supervisor.lifecycle.restart_policy import Retry

log = logging.getLogger("mlxguard.supervisor")


class Launcher:
    """Starts attempts, and remembers what the last one held.

    Args:
        prepare: asked before each start for what to run; raises CannotStart if there is nothing.
        deaths: told how long memory was waited for.
    """

    def __init__(self, prepare: Callable[[], Awaitable[LaunchSpec]], deaths: CrashReports) -> None:
        self._prepare = prepare
        self._deaths = deaths
        self._session: aiohttp.ClientSession | None = None
        self._free_before: int | None = None  # bytes, before the last child was started
        self._held = 0  # bytes, by the last child at its end

    def open(self) -> None:
        """Be ready to ask children questions."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> bool:
        """False if it was not open."""
        if self._session is None:
            return False
        await self._session.close()
        self._session = None
        return True

    async def launch(self, attempt: Attempt) -> None:
        """Start the process of `attempt`.

        Raises:
            CannotStart: there is nothing to run.
            OSError: the system refuses.
        """
        launch = await self._prepare()
        await self._memory_back()
        assert self._session is not None
        await attempt.launch(launch, self._session)
        self._free_before = attempt.free_before

    def ended(self, attempt: Attempt) -> None:
        """The process of `attempt` is gone; what it held should come back."""
        self._held = attempt.held()

    async def _memory_back(self) -> None:
        """Do not load into what the last child still holds."""
        if self._free_before is not None:
            back = await memory_back(self._free_before, self._held)
            if back.waited_s or back.missing_bytes:
                extra = {"waited_s": back.waited_s, "missing_bytes": back.missing_bytes}
                log.info("memory_waited_for", extra=extra)
            self._deaths.done("memory", waited_s=back.waited_s, missing_bytes=back.missing_bytes)


def not_started(error: BaseException) -> tuple[Diagnosis, Retry]:
    """Why nothing was started, and whether to try again."""
    if isinstance(error, CannotStart):
        return Diagnosis(error.cause, error.explanation), Retry.NEVER
    log.error("start_failed", exc_info=error)
    return Diagnosis(Cause.SPAWN_FAILED, f"Starting failed: {error}"), Retry.COUNTED
