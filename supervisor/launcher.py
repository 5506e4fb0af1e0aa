"""Starts a child process: asks what to run, waits for memory, and launches the attempt."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from supervisor.child.attempt import Attempt
from supervisor.child.memory_wait import wait_for_memory
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.crash_reports import CrashReports
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.diagnosis import Diagnosis
from supervisor.lifecycle.restart_policy import Retry
from supervisor.machine.system import is_own_shortage

log = logging.getLogger("mlxguard.supervisor")

#: Seconds for which a start is tried again while this process lacks file descriptors or memory, before that
#: counts as a failed start.
_SHORTAGE_S = 60.0


class Launcher:
    """Starts attempts, and remembers how much memory the last one used.

    Args:
        prepare: called before each start to find out what to run; raises CannotStart if there is nothing.
        crash_reports: the wait for memory is noted in the current report.
    """

    def __init__(self, prepare: Callable[[], Awaitable[LaunchSpec]], crash_reports: CrashReports) -> None:
        self._prepare = prepare
        self._crash_reports = crash_reports
        self._session: aiohttp.ClientSession | None = None
        self._last: tuple[int, int] | None = None  # bytes free before the last child, bytes it used

    def open(self) -> None:
        """Open the HTTP session in which children are probed."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> bool:
        """Close the session; False if it was not open."""
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
        await self._wait_for_memory()
        assert self._session is not None
        waiting = AsyncRetrying(
            retry=retry_if_exception(is_own_shortage),
            wait=wait_exponential(multiplier=0.1, max=2.0),
            stop=stop_after_delay(_SHORTAGE_S),
            reraise=True,
        )
        await waiting(attempt.launch, launch, self._session)

    def ended(self, attempt: Attempt) -> None:
        """Note that the process of `attempt` is gone, and how much memory should come back."""
        if attempt.free_before is not None:
            self._last = attempt.free_before, attempt.last_footprint()

    async def _wait_for_memory(self) -> None:
        """Do not load a model while the last child's memory is still occupied."""
        if self._last is not None:
            waited_s, missing = await wait_for_memory(*self._last)
            if waited_s or missing:
                log.info("waited_for_memory", extra={"waited_s": waited_s, "missing_bytes": missing})
            self._crash_reports.note("memory", waited_s=waited_s, missing_bytes=missing)


def not_started(error: BaseException) -> tuple[Diagnosis, Retry]:
    """Why nothing was started, and whether to try again."""
    if isinstance(error, CannotStart):
        return Diagnosis(error.cause, error.explanation), Retry.NEVER
    log.error("start_failed", exc_info=error)
    return Diagnosis(Cause.SPAWN_FAILED, f"Starting failed: {error}"), Retry.COUNTED
