"""Deaths are counted, crashes reported, and each death announced once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.aio import Tasks
from supervisor.child.attempt import Attempt
from supervisor.child.generation import Death
from supervisor.child.options import SupervisorOptions
from supervisor.crash_reports import CrashReports
from supervisor.lifecycle.causes import Cause, Symptom
from supervisor.lifecycle.in_flight import InFlight
from supervisor.lifecycle.state_machine import State
from supervisor.state.folder import StateFolder
from supervisor.state.saver import Saver

WORK = InFlight("chatcmpl-1", "abc", 1000, 10, 0, "prefill", (64, 1000), 1, 2.5, suspect=True)


def death(cause: Cause, generation: int = 1, *, external: bool = False) -> Death:
    return Death(generation, cause, "why", "what to do", None, 6, ("last", "words"), State.READY, external)


class Stand:
    """Crash reports in a real folder, about an attempt that was never launched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = Tasks()
        self.in_flight: list[InFlight] = []
        self.reports = CrashReports(StateFolder(folder), Saver(self.tasks), lambda _: self.in_flight)
        self.attempt = Attempt(1, SupervisorOptions(folder), None, self.tasks)  # type: ignore[arg-type]

    def add(self, death: Death, symptom: Symptom = Symptom.EXIT) -> None:
        self.reports.add(death, symptom, self.attempt)

    async def report(self) -> dict[str, Any]:
        await self.tasks.finish()
        (path,) = (self.folder / "crashes").iterdir()
        report: dict[str, Any] = json.loads(path.read_text())
        return report


@pytest.fixture
async def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_crashes_are_counted_reported_and_announced_once(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    crash = death(Cause.METAL_OOM)
    stand.add(crash)
    assert dict(stand.reports.by_cause) == {Cause.METAL_OOM: 1}
    assert stand.reports.last is not None
    assert stand.reports.last.cause is Cause.METAL_OOM
    assert (stand.reports.take_unannounced(), stand.reports.take_unannounced()) == (crash, None)
    report = await stand.report()
    assert (report["cause"], report["symptom"]) == ("metal_oom", "exit")
    assert (report["last_lines"], report["in_flight"], report["done"]) == (["last", "words"], [], [])
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["cause"]) == ("child_died", Cause.METAL_OOM)


async def test_the_report_has_the_requests_in_flight_and_the_advice_that_follows(stand: Stand) -> None:
    stand.in_flight = [WORK]
    stand.add(death(Cause.METAL_OOM))
    report = await stand.report()
    (work,) = report["in_flight"]
    assert (work["fingerprint"], work["progress"], work["suspect"]) == ("abc", [64, 1000], True)
    assert "max_prompt_tokens = 512" in report["advice"]


async def test_nothing_is_advised_against_an_external_cause(stand: Stand) -> None:
    stand.in_flight = [WORK]
    stand.add(death(Cause.KILLED_BY_SYSTEM, external=True))
    report = await stand.report()
    assert (report["advice"], report["external"]) == (
        "Nothing, if you know who did it.",
        True,
    )


async def test_what_was_done_is_added_until_the_crash_is_over(stand: Stand) -> None:
    stand.reports.note("starting")
    stand.add(death(Cause.WEDGE))
    stand.reports.note("stopping", generation=1)
    stand.reports.note("ready", generation=2)
    stand.reports.close()
    stand.reports.note("draining")
    report = await stand.report()
    assert [step["what"] for step in report["done"]] == ["stopping", "ready"]
    assert report["done"][1]["generation"] == 2
    assert report["done"][1]["after_s"] >= 0


async def test_a_planned_end_is_no_crash(stand: Stand) -> None:
    stand.add(death(Cause.RECYCLED), Symptom.RECYCLED)
    stand.add(death(Cause.OWN_STOP, 2), Symptom.STOPPED)
    await stand.tasks.finish()
    assert dict(stand.reports.by_cause) == {Cause.RECYCLED: 1}
    assert stand.reports.last is None
    assert not (stand.folder / "crashes").exists()
