"""What is counted, what is reported, and what subscribers are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.deaths import Deaths
from supervisor.diagnosis import Cause, Symptom
from supervisor.generation import Death
from supervisor.lifecycle import State
from supervisor.records import Records
from supervisor.tasks import Tasks


def death(cause: Cause, generation: int = 1) -> Death:
    return Death(generation, cause, "why", "what to do", None, 6, ("last", "words"), State.READY)


async def test_crashes_are_counted_reported_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = Tasks()
    deaths = Deaths(Records(tmp_path), tasks)
    crash = death(Cause.METAL_OOM)
    deaths.add(crash, Symptom.EXIT)
    await tasks.finish()
    assert dict(deaths.by_cause) == {Cause.METAL_OOM: 1}
    assert deaths.last is crash
    assert (deaths.take_untold(), deaths.take_untold()) == (crash, None)
    (path,) = (tmp_path / "crashes").iterdir()
    report = json.loads(path.read_text())
    assert (report["cause"], report["symptom"], report["last_lines"]) == (
        "metal_oom",
        "exit",
        ["last", "words"],
    )
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["cause"]) == ("child_died", Cause.METAL_OOM)


async def test_our_own_doing_is_no_crash(tmp_path: Path) -> None:
    tasks = Tasks()
    deaths = Deaths(Records(tmp_path), tasks)
    deaths.add(death(Cause.RECYCLED), Symptom.RECYCLED)
    deaths.add(death(Cause.OWN_STOP, 2), Symptom.STOPPED)
    await tasks.finish()
    assert dict(deaths.by_cause) == {Cause.RECYCLED: 1}
    assert deaths.last is None
    assert not (tmp_path / "crashes").exists()
