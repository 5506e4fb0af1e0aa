"""Attributing crashes: which requests were in flight, what is recorded, and what a client is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.errors import PromptTooLong, Quarantined
from proxy.job import Job, Stage
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import FILE, LearnedFile, read_section
from proxy.relay.blame import QUARANTINE_S, Isolation
from proxy.relay.quarantine import SUSPECTS, Quarantine
from supervisor.child.generation import Death
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from tests.proxy.api.test_metrics import ended


def a_job(
    unique: str,
    *,
    stage: Stage = Stage.PREFILL,
    generation: int | None = 1,
    tokens: int = 7,
    asked: float | None = 1.0,
) -> Job:
    job = ended(counted=7)
    job.answer.id = f"cmpl-{unique}"
    job.stage, job.generation, job.asked = stage, generation, asked
    job.request.sampling["seed"] = unique
    job.fitted = type(job.fitted)(
        job.request.prompt, tokens, 5, clamped=False, dropped_messages=0, dropped_tokens=0
    )
    return job


def death(cause: Cause = Cause.SEGFAULT, *, external: bool = False) -> Death:
    return Death(1, cause, "", "", None, None, (), State.READY, external)


class Stand:
    def __init__(self, folder: Path, model: str = "m") -> None:
        self.jobs: list[Job] = []
        self.now = 100.0
        self.internal_requests = 0
        self.file = LearnedFile(folder)
        self.limits = LearnedLimits(clock=lambda: 3.5)
        self.quarantine = Quarantine(
            lambda: self.jobs,
            self.file,
            model=model,
            limits=self.limits,
            internal_requests=lambda: self.internal_requests,
            clock=lambda: 3.5,
            wall=lambda: self.now,
        )
        self.quarantine.load()

    def kill(self, *jobs: Job, cause: Cause = Cause.SEGFAULT, times: int = 1) -> None:
        self.jobs = list(jobs)
        for _ in range(times):
            self.quarantine.attribute(death(cause))


async def test_only_what_the_dead_child_was_working_on_is_looked_at(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.jobs = [
        a_job("working"),
        a_job("waiting", stage=Stage.WAITING),
        a_job("held", stage=Stage.STARTING),
        a_job("older", generation=0),
        a_job("new", generation=None),
        a_job("on its way", asked=None),
    ]
    (work,) = stand.quarantine.attribute(death())
    assert (work.answer_id, work.phase, work.running_s) == ("cmpl-working", "prefill", 2.5)
    assert (work.suspect, work.refused_s, len(work.fingerprint)) == (True, None, 16)
    await stand.file.stop()


async def test_a_suspect_that_has_not_reached_the_child_is_not_quarantined(tmp_path: Path) -> None:
    """It was to run alone, and another hand killed the child while it was being connected."""
    stand, suspect = Stand(tmp_path), a_job("suspect")
    stand.kill(suspect, a_job("company"))
    stand.kill(a_job("suspect", asked=None))
    assert stand.quarantine.isolation(suspect) is not Isolation.NONE, "still a suspect, not refused"
    await stand.file.stop()


async def test_quarantine_survives_the_proxy_and_ends_in_time(tmp_path: Path) -> None:
    stand, poison = Stand(tmp_path), a_job("poison")
    stand.kill(poison, times=2)
    await stand.file.stop()
    assert "seed" not in (tmp_path / FILE).read_text()

    later = Stand(tmp_path)
    with pytest.raises(Quarantined):
        later.quarantine.isolation(poison)
    later.now += QUARANTINE_S
    assert later.quarantine.isolation(poison) is Isolation.UNTIL_FIRST_TOKEN
    assert later.quarantine.isolation(a_job("other")) is Isolation.NONE
    await later.file.stop()


async def test_what_killed_one_model_says_nothing_of_another(tmp_path: Path) -> None:
    stand, poison = Stand(tmp_path), a_job("poison")
    stand.kill(poison, times=2)
    await stand.file.stop()
    other = Stand(tmp_path, model="other")
    assert other.quarantine.isolation(poison) is Isolation.NONE


async def test_quarantine_is_in_the_report(tmp_path: Path) -> None:
    stand, poison = Stand(tmp_path), a_job("poison")
    stand.kill(poison)
    (work,) = stand.quarantine.attribute(death())
    assert (work.suspect, work.refused_s) == (True, QUARANTINE_S)
    await stand.file.stop()


@pytest.mark.parametrize(("proven", "limit"), [(100, 500), (800, 800)])
async def test_a_memory_killer_is_told_what_is_safe(tmp_path: Path, proven: int, limit: int) -> None:
    stand, killer = Stand(tmp_path), a_job("killer", tokens=1000)
    stand.quarantine.completed(a_job("small", tokens=proven))
    stand.kill(killer, cause=Cause.METAL_OOM)
    stand.kill(killer, cause=Cause.ALLOCATION_REFUSED)
    with pytest.raises(PromptTooLong) as refusal:
        stand.quarantine.isolation(killer)
    assert (refusal.value.limit, refusal.value.prompt_tokens) == (limit, 1000)
    await stand.file.stop()


async def test_a_death_with_an_external_cause_is_reported_and_not_blamed(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.jobs = [a_job("innocent")]
    for _ in range(5):
        (work,) = stand.quarantine.attribute(death(Cause.KILLED_BY_SYSTEM, external=True))
        assert not work.suspect
    assert stand.quarantine.isolation(stand.jobs[0]) is Isolation.NONE


async def test_a_death_with_a_request_of_another_program_is_no_fault_of_ours(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.jobs = [a_job("innocent")]
    for _ in range(5):
        (work,) = stand.quarantine.attribute(replace(death(), unaccounted=1))
        assert not work.suspect
    assert stand.quarantine.isolation(stand.jobs[0]) is Isolation.NONE


async def test_a_death_during_an_internal_request_is_not_blamed(tmp_path: Path) -> None:
    stand, innocent = Stand(tmp_path), a_job("innocent")
    stand.internal_requests = 1
    stand.kill(innocent, times=3)
    assert stand.quarantine.isolation(innocent) is Isolation.NONE
    await stand.file.stop()


async def test_completing_clears_also_in_the_file(tmp_path: Path) -> None:
    stand, suspect = Stand(tmp_path), a_job("suspect")
    stand.kill(suspect)
    stand.quarantine.completed(suspect)
    await stand.file.stop()
    stored = read_section(tmp_path, SUSPECTS)
    assert stored is not None
    assert stored.records == {}
    assert stand.quarantine.isolation(suspect) is Isolation.NONE


async def test_deaths_and_work_teach_what_memory_there_is(tmp_path: Path) -> None:
    stand, job = Stand(tmp_path), a_job("a")
    stand.limits.set_ceiling(10**9)
    stand.jobs = [job]
    stand.quarantine.attribute(replace(death(Cause.CUDA_OOM), active_bytes=10**9))
    assert stand.limits.learned.deaths == 1
    stand.quarantine.completed(job)
    assert stand.limits.learned.worked_s > 0
    await stand.file.stop()


async def test_a_request_that_endured_two_deaths_is_isolated_whichever_is_blamed(tmp_path: Path) -> None:
    stand, job = Stand(tmp_path), a_job("a")
    job.answer.attempts = 2
    assert stand.quarantine.isolation(job) is Isolation.UNTIL_FIRST_TOKEN


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"version": 1, "suspects": {"model": 1}}', '{"version": 1, "suspects": {"records": 3}}'],
)
def test_a_file_that_is_broken_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert Stand(tmp_path).quarantine.isolation(a_job("a")) is Isolation.NONE
