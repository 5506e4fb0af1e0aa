"""What is told about the gateway: the status document, and the gauges."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import orjson

from proxy.api.metrics import Metrics
from proxy.api.status import Status
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from proxy.job import Job, Outcome, Stage
from proxy.log.setup import lost_lines
from proxy.memory.guard import MemoryGuard, MemorySnapshot
from proxy.memory.pressure import Mark
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import LearnedFile
from proxy.planning.preparation import Preparation
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from supervisor.child.generation import ChildSnapshot, Death
from supervisor.child.process import Telemetry
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.plan import Plan
from supervisor.memory_model.sequence import SequenceDemand
from supervisor.supervisor import Supervisor
from tests.proxy.api.test_metrics import Samples, ended, samples
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
    count_differences = 0
    plan: Plan | None = None

    def snapshot(self) -> ChildSnapshot:
        return CRASHED


class FixedMemory:
    """Stands in for the memory guard."""

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(Mark.SOFT, {"ended": 1, "reclaims": 2, "recycles": 3})


def scraped(shown: Status) -> Samples:
    metrics = Metrics()
    metrics.register(shown)
    return samples(metrics)


def job(unique: str) -> Job:
    made = ended(counted=7)
    made.answer.id = f"cmpl-{unique}"
    return made


def status(registry: Registry, quarantine: Quarantine | None = None, plan: Plan | None = None) -> Status:
    gate = Gate(Budget(max_running=4), max_waiting=8, on_sample=lambda _: None)
    fixed = Fixed()
    fixed.plan = plan
    return Status(
        cast("Supervisor", fixed),
        gate,
        registry,
        cast("Preparation", fixed),
        quarantine=quarantine or Quarantine(registry.jobs, LearnedFile(None), internal_requests=lambda: 0),
        learned_limits=LearnedLimits(),
        memory=cast("MemoryGuard", FixedMemory()),
        started_at=500,
    )


async def test_what_is_done_for_memory_is_shown() -> None:
    shown = status(Registry())
    assert shown.document()["memory"] == {"pressure": "soft", "ended": 1, "reclaims": 2, "recycles": 3}
    got = scraped(shown)
    assert got["mlxguard_memory_pressure_level", ()] == 1
    assert got["mlxguard_memory_actions_total", (("action", "recycles"),)] == 3


async def test_the_document_says_what_the_child_does_and_why() -> None:
    registry = Registry()
    done = job("1")
    done.outcome = Outcome.OK
    with registry.track(done):
        document: dict[str, Any] = orjson.loads(orjson.dumps(status(registry).document()))
    assert document["started_at"] == 500
    assert document["child"]["state"] == "starting"
    assert document["child"]["exits_by_cause"] == {"metal_oom": 2}
    assert document["child"]["last_death"]["cause"] == "metal_oom"
    assert document["child"]["memory"] == {"footprint": 100, "active": 10, "peak": 20, "cache": 5}
    assert document["queue"] == {
        "running": 0,
        "disconnected": 0,
        "waiting": 0,
        "max_running": 4,
        "paused": False,
        "bytes": {"reserved": 0, "ceiling": None, "retained": 0, "eviction_needed": 0},
        "cost_model_corrections": {"alone": 1.0, "together": 1.0},
    }
    assert document["model"] is None
    assert document["plan"] is None
    assert document["suspects"] == []
    assert document["learned"]["ceiling_ratio"] == 1.0
    assert len(document["requests"]) == 1


async def test_suspects_quarantine_and_plan_are_shown() -> None:
    registry, killer = Registry(), job("1")
    killer.stage, killer.generation, killer.asked = Stage.PREFILL, 1, 1.0
    quarantine = Quarantine(
        lambda: [killer], LearnedFile(None), internal_requests=lambda: 0, wall=lambda: 100.0
    )
    crash = Death(1, Cause.METAL_OOM, "", "", None, None, (), State.READY)
    shown = status(registry, quarantine, a_plan(7 * 10**9))
    quarantine.attribute(crash)
    (suspect,) = shown.document()["suspects"]
    assert (suspect["why"], suspect["until"], len(suspect["fingerprint"])) == (("memory",), None, 8)
    quarantine.attribute(crash)
    document = orjson.loads(orjson.dumps(shown.document()))
    assert document["suspects"][0]["until"] == 700.0
    assert document["plan"]["ceiling"] == 7 * 10**9
    got = scraped(shown)
    assert got["mlxguard_suspects", ()] == 1
    assert got["mlxguard_quarantined", ()] == 1
    assert got["mlxguard_memory_ceiling_bytes", ()] == 7 * 10**9


async def test_gauges_name_every_state_once() -> None:
    got = scraped(status(Registry()))
    states = {labels[0][1]: value for (name, labels), value in got.items() if name == "mlxguard_child_state"}
    assert sorted(states) == sorted(state.value for state in State)
    assert [state for state, value in states.items() if value] == ["starting"]
    memory = {
        labels[0][1]: value for (name, labels), value in got.items() if name == "mlxguard_child_memory_bytes"
    }
    assert memory == {"footprint": 100, "active": 10, "peak": 20, "cache": 5}


async def test_gauges_are_read_when_scraped() -> None:
    class Busy(Gate):
        def snapshot(self) -> GateSnapshot:
            return replace(
                super().snapshot(),
                demands=dict.fromkeys("abc", SequenceDemand(1, 1)),
                waiting=4,
                disconnected=1,
                budget=Budget(max_running=4, ceiling=900),
                reserved=700,
                corrections=(1.0, 1.25),
            )

    shown = status(Registry())
    metrics = Metrics()
    metrics.register(shown)
    before = samples(metrics)
    assert before["mlxguard_requests_waiting", ()] == 0
    assert ("mlxguard_gate_bytes", (("kind", "ceiling"),)) not in before, "there is no such limit"
    shown._gate = Busy(Budget(max_running=4), max_waiting=8, on_sample=lambda _: None)
    got = samples(metrics)
    assert got["mlxguard_child_generation", ()] == 3
    assert got["mlxguard_child_exits_total", (("cause", "metal_oom"),)] == 2
    assert got["mlxguard_requests_running", ()] == 3
    assert got["mlxguard_requests_waiting", ()] == 4
    assert got["mlxguard_requests_disconnected", ()] == 1
    assert got["mlxguard_gate_bytes", (("kind", "reserved"),)] == 700
    assert got["mlxguard_gate_bytes", (("kind", "ceiling"),)] == 900
    assert got["mlxguard_cost_model_correction", (("kind", "together"),)] == 1.25
    assert got["mlxguard_log_lines_lost_total", ()] == lost_lines()
    assert got["mlxguard_learned_ceiling_ratio", ()] == 1.0
    assert ("mlxguard_memory_ceiling_bytes", ()) not in got, "there is no plan"
    assert ("mlxguard_plan_max_prompt_tokens", ()) not in got
