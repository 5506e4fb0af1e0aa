from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.api.cost_preview import cost_preview, memory_limits
from proxy.config.settings import MemorySettings
from proxy.gate.budget import Budget
from proxy.gate.costs import PlannedCosts, budget
from proxy.gate.gate import Gate
from supervisor.memory_model.ceiling import Ceiling
from tests.proxy.gate.test_costs import a_plan


def gate(shared: Budget) -> Gate:
    return Gate(shared, max_waiting=9, on_sample=lambda _: None, clock=lambda: 1.0)


def arithmetic(document: dict[str, Any]) -> str:
    return " ".join(document["arithmetic"])


async def test_without_a_plan_only_slots_count() -> None:
    document = cost_preview(gate(Budget(max_running=3)), "a", 100, 20)
    assert document == {
        "admission": "now",
        "expected_completion_tokens": 20,
        "alone": {"kv_bytes": 0, "memory_bytes": 0},
        "together": {
            "running": 0,
            "waiting": 0,
            "kv_bytes": 0,
            "weights_bytes": 0,
            "retained_bytes": 0,
            "memory_bytes": 0,
        },
        "arithmetic": ["0 of 3 slots are in use.", "There is no plan that says how much memory may be used."],
    }


async def test_the_cost_is_the_cost_models_and_the_decision_the_gates() -> None:
    planned = a_plan(room=200_000_000)
    guarded = gate(replace(budget(planned), max_running=2))
    alone = cost_preview(guarded, "a", 5000, 20)
    costs = PlannedCosts(planned.serving)
    assert alone["admission"] == "now"
    assert alone["together"]["memory_bytes"] == alone["alone"]["memory_bytes"] + costs.weights
    assert alone["alone"]["kv_bytes"] > 5000 * 1000
    guarded.set_retained(3_000_000)
    tickets = [
        guarded.ticket(name, "a", arrived=0, deadline=9, prompt=4000, max_tokens=20)
        for name in ("x", "y", "z")
    ]
    with guarded.enter(tickets[0]):
        beside = cost_preview(guarded, "a", 5000, 20)
        assert (beside["admission"], beside["together"]["running"]) == ("now", 1)
        assert beside["together"]["memory_bytes"] > alone["together"]["memory_bytes"] + 3_000_000
        assert "1 of 2 slots are in use. KV of all requests that would run: 10 MB" in arithmetic(beside)
        assert "5 MB of weights + 3 MB of finished sequences + " in arithmetic(beside)
        with guarded.enter(tickets[1]), guarded.enter(tickets[2]):
            late = cost_preview(guarded, "a", 5000, 20)
            assert (late["admission"], late["together"]["waiting"]) == ("queued", 1)
            assert "2 of 2 slots are in use. 1 requests are queued before it." in arithmetic(late)
    guarded.hold(on=True)
    assert "No request is admitted" in arithmetic(cost_preview(guarded, "a", 5000, 20))


async def test_a_prompt_that_never_fits() -> None:
    document = cost_preview(gate(budget(a_plan(room=20_000_000))), "a", 30_000, 20)
    assert document["admission"] == "never_fits"
    assert document["together"]["memory_bytes"] > 25_000_000
    assert arithmetic(document).endswith("of 25 MB.")


async def test_limits_say_where_they_come_from() -> None:
    planned, auto = a_plan(room=200_000_000), MemorySettings()
    guarded = gate(budget(planned))
    ceiling, kv = memory_limits(guarded, planned, auto)
    assert ceiling == {"name": "ceiling", "bytes": planned.ceiling.bytes, "from": "a test"}
    assert kv["bytes"] == planned.max_active_kv
    assert kv["from"].startswith("the plan")
    guarded.set_budget(replace(budget(planned), ceiling=190_000_000, recent_ceiling=205_000_000))
    ceiling, kv = memory_limits(guarded, planned, MemorySettings(max_active_kv_bytes="1GB"))
    assert ceiling["bytes"] == 190_000_000
    assert ceiling["from"] == "what the machine has now; when the child was started, 205 MB: a test"
    assert kv["from"] == "[memory] max_active_kv_bytes"


async def test_there_is_no_limit_where_nothing_is_known() -> None:
    assert memory_limits(gate(Budget(max_running=1)), None, MemorySettings()) == []


def test_a_learned_limit_is_named_as_its_source() -> None:
    planned = a_plan(room=200_000_000)
    learned = replace(planned, ceiling=Ceiling(planned.ceiling.bytes, "90% of it, learned from a death"))
    found = memory_limits(gate(budget(learned)), learned, MemorySettings())
    assert found[0]["from"] == "90% of it, learned from a death"
