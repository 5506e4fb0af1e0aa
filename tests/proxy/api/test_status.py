from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import Any, cast

import orjson

from proxy.api.status import Status
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.job import Job, Outcome, Stage
from proxy.memory.guard import MemorySnapshot
from proxy.memory.pressure import Mark
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.preparation import Preparation
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from supervisor.child.generation import Death
from supervisor.child.process import Telemetry
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.plan import Plan
from supervisor.supervisor import ChildSnapshot, Supervisor
from tests.proxy.api.test_metrics import ended
from tests.proxy.planning.test_preparation import a_plan

CRASHED = ChildSnapshot(
    state=State.STARTING,
    generation=3,
    cause=Cause.METAL_OOM,
    explanation="The GPU ran out of memory (Metal).",
    advice="Less.",
    pid=77,
    port=5000,
    since=1000.0,
    ready_since=None,
    restarts=2,
    restarts_by_cause=MappingProxyType({Cause.METAL_OOM: 2}),
    next_restart_s=None,
    in_flight=0,
    telemetry=Telemetry(active_bytes=10, peak_bytes=20, cache_bytes=5, beat=1, at=0.0),
    memory_bytes=100,
    log_tail=(),
)


class Fixed:
    """Stands in for supervisor and preparation: what they say does not change."""

    prepared = None
    plan: Plan | None = None

    def snapshot(self) -> ChildSnapshot:
        return CRASHED


def job(unique: str) -> Job:
    made = ended(counted=7)
    made.answer.id = f"cmpl-{unique}"
    return made


def status(registry: Registry, inquest: Quarantine | None = None, plan: Plan | None = None) -> Status:
    gate = Gate(Budget(max_running=4), max_waiting=8)
    fixed = Fixed()
    fixed.plan = plan
    return Status(
        cast("Supervisor", fixed),
        gate,
        registry,
        cast("Preparation", fixed),
        inquest=inquest or Quarantine(registry.jobs, None),
        limits=LearnedLimits(),
        memory=lambda: MemorySnapshot(Mark.SOFT, ended=1, reclaims=2, recycles=3),
        started_at=500,
    )


async def test_what_is_done_for_memory_is_shown() -> None:
    shown = status(Registry())
    assert shown.document()["memory"] == {"mark": "soft", "ended": 1, "reclaims": 2, "recycles": 3}
    assert (shown.gauges().memory_mark, shown.gauges().memory_actions["recycles"]) == (1, 3)


async def test_what_runs_is_shown_until_it_has_ended_and_then_among_the_recent() -> None:
    registry = Registry()
    one = job("1")
    one.stage = Stage.DECODE
    with registry.track(one):
        assert len(registry) == 1
        assert [shown["answer_id"] for shown in registry.running()] == ["cmpl-1"]
        assert registry.running()[0]["stage"] == "decode"
    one.end(2.0)
    assert registry.running() == []
    assert registry.recent()[0]["answer_id"] == "cmpl-1"


async def test_two_requests_with_one_id_are_both_shown() -> None:
    registry = Registry()
    with registry.track(job("1")), registry.track(job("2")):
        assert [shown["request_id"] for shown in registry.running()] == ["r", "r"]


async def test_recent_ones_are_newest_first_and_bounded() -> None:
    registry = Registry()
    for number in range(200):
        with registry.track(job(str(number))):
            pass
    recent = registry.recent()
    assert len(recent) == 50
    assert recent[0]["answer_id"] == "cmpl-199"


async def test_emptied_returns_when_the_last_one_has_ended() -> None:
    registry = Registry()
    await registry.emptied()
    with registry.track(job("1")):
        waiting = asyncio.create_task(registry.emptied())
        with registry.track(job("2")):
            pass
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_the_document_says_what_the_child_does_and_why() -> None:
    registry = Registry()
    done = job("1")
    done.outcome = Outcome.OK
    with registry.track(done):
        document: dict[str, Any] = orjson.loads(orjson.dumps(status(registry).document()))
    assert document["started"] == 500
    assert document["child"]["state"] == "starting"
    assert document["child"]["ended_by_cause"] == {"metal_oom": 2}
    assert document["child"]["last_death"]["cause"] == "metal_oom"
    assert document["child"]["memory"] == {"footprint": 100, "active": 10, "peak": 20, "cache": 5}
    assert document["queue"] == {
        "running": 0,
        "leaving": 0,
        "waiting": 0,
        "max_running": 4,
        "held": False,
        "bytes": {"reserved": 0, "ceiling": None, "retained": 0, "lacking": 0},
        "law_corrections": [1.0, 1.0],
    }
    assert document["model"] is None
    assert document["plan"] is None
    assert document["suspects"] == []
    assert document["learned_limits"]["share"] == 1.0
    assert len(document["requests"]) == 1


async def test_suspects_quarantine_and_plan_are_shown() -> None:
    registry, killer = Registry(), job("1")
    killer.stage, killer.generation, killer.asked = Stage.PREFILL, 1, 1.0
    inquest = Quarantine(lambda: [killer], None, wall=lambda: 100.0)
    crash = Death(1, Cause.METAL_OOM, "", "", None, None, (), State.READY)
    shown = status(registry, inquest, a_plan(7 * 10**9))
    inquest.hold(crash)
    (suspect,) = shown.document()["suspects"]
    assert (suspect["why"], suspect["until"], len(suspect["fingerprint"])) == (("memory",), None, 8)
    inquest.hold(crash)
    document = orjson.loads(orjson.dumps(shown.document()))
    assert document["suspects"][0]["until"] == 700.0
    assert document["plan"]["ceiling"] == 7 * 10**9
    gauges = shown.gauges()
    assert (gauges.suspects, gauges.quarantined, gauges.ceiling_bytes) == (1, 1, 7 * 10**9)


async def test_gauges_name_every_state_once() -> None:
    gauges = status(Registry()).gauges()
    assert gauges.child_state == "starting"
    assert sorted(gauges.child_states) == sorted(state.value for state in State)
    assert gauges.memory_bytes == {"footprint": 100, "active": 10, "peak": 20, "cache": 5}
