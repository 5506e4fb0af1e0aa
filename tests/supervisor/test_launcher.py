"""Before a start: what to run, and memory that is back. The start itself is in test_runner.py."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from supervisor import launcher
from supervisor.aio import Tasks
from supervisor.child.attempt import Attempt
from supervisor.child.memory_wait import Waited
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.crash_reports import CrashReports, nobody
from supervisor.launcher import Launcher, not_started
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.restart_policy import Retry
from supervisor.state.folder import StateFolder
from supervisor.state.saver import Saver


class FakeAttempt:
    """One whose child held 5 bytes, on a machine that had 9 free before."""

    free_before = 9

    async def launch(self, launch: LaunchSpec, session: object) -> None:
        self.launched = launch

    def held(self) -> int:
        return 5


async def test_memory_is_waited_for_from_the_second_start_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []

    async def memory_back(before: int, held: int) -> Waited:
        asked.append((before, held))
        return Waited(1.5, 3)

    async def prepare() -> LaunchSpec:
        return LaunchSpec(("--model", "m"), {})

    monkeypatch.setattr(launcher, "memory_back", memory_back)
    made = Launcher(prepare, CrashReports(StateFolder(tmp_path), Saver(Tasks()), nobody))
    assert not await made.close()
    made.open()
    first, second = (cast("Attempt", FakeAttempt()) for _ in range(2))
    with caplog.at_level("INFO", "mlxguard"):
        await made.launch(first)
        assert asked == []
        made.ended(first)
        await made.launch(second)
    assert asked == [(9, 5)]
    assert "memory_waited_for" in [record.getMessage() for record in caplog.records]
    assert await made.close()


def test_why_nothing_was_started() -> None:
    finding, retry = not_started(CannotStart(Cause.BAD_MODEL, "There is no model in /x."))
    assert (finding.cause, retry) == (Cause.BAD_MODEL, Retry.NEVER)
    finding, retry = not_started(OSError("Too many open files"))
    assert (finding.cause, retry) == (Cause.SPAWN_FAILED, Retry.COUNTED)
    assert "Too many open files" in finding.explanation
