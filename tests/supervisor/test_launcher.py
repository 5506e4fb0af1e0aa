"""Before a start: what to run, and the wait for memory. test_supervisor.py has the start itself."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from supervisor import launcher
from supervisor.aio import Tasks
from supervisor.child.attempt import Attempt
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.crash_reports import CrashReports
from supervisor.launcher import Launcher, not_started
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.restart_policy import Retry
from supervisor.state.folder import StateFolder
from supervisor.state.saver import Saver


class FakeAttempt:
    """An attempt whose child used 5 bytes, on a machine that had 9 free before."""

    free_before = 9

    async def launch(self, launch: LaunchSpec, session: object) -> None:
        self.launched = launch

    def last_footprint(self) -> int:
        return 5


async def test_memory_is_waited_for_before_every_start_but_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []

    async def wait_for_memory(before: int, used: int) -> tuple[float, int]:
        asked.append((before, used))
        return 1.5, 3

    async def prepare() -> LaunchSpec:
        return LaunchSpec(("--model", "m"), {})

    monkeypatch.setattr(launcher, "wait_for_memory", wait_for_memory)
    made = Launcher(prepare, CrashReports(StateFolder(tmp_path), Saver(Tasks()), lambda _: ()))
    assert not await made.close()
    made.open()
    first, second = (cast("Attempt", FakeAttempt()) for _ in range(2))
    with caplog.at_level("INFO", "mlxguard"):
        await made.launch(first)
        assert asked == []
        made.ended(first)
        await made.launch(second)
    assert asked == [(9, 5)]
    assert "waited_for_memory" in [record.getMessage() for record in caplog.records]
    assert await made.close()


def test_why_nothing_was_started() -> None:
    diagnosis, retry = not_started(CannotStart(Cause.BAD_MODEL, "There is no model in /x."))
    assert (diagnosis.cause, retry) == (Cause.BAD_MODEL, Retry.NEVER)
    diagnosis, retry = not_started(OSError("Too many open files"))
    assert (diagnosis.cause, retry) == (Cause.SPAWN_FAILED, Retry.COUNTED)
    assert "Too many open files" in diagnosis.explanation
