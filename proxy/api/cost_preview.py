"""Previews the memory cost of a request, and whether it would run now, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.config.settings import MemorySettings
from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from supervisor.memory_model.ceiling import gb
from supervisor.memory_model.plan import Plan


def cost_preview(gate: Gate, client: str, prompt: int, max_tokens: int) -> dict[str, Any]:
    """What the gate would do with a request of `prompt` tokens if it arrived now; sizes in bytes.

    `alone`: its cost, without the weights, if nothing else runs. `together`: the predicted peak of all that
    would run, if it were added to the requests that are running now.
    """
    ticket = gate.ticket("", client, arrived=0, deadline=0, prompt=prompt, max_tokens=max_tokens)
    state = gate.snapshot()
    costs, demand, running = state.budget.costs, ticket.demand, [*state.demands.values()]
    together = {
        "running": len(running),
        "waiting": state.waiting,
        "kv_bytes": costs.kv((*running, demand)),
        "weights_bytes": costs.weights,
        "retained_bytes": state.retained,
        "memory_bytes": costs.peak((*running, demand), state.retained),
    }
    return {
        "admission": gate.preview(client, prompt, max_tokens).value,
        "expected_completion_tokens": demand.completion,
        "alone": {"kv_bytes": costs.kv((demand,)), "memory_bytes": costs.peak((demand,), 0) - costs.weights},
        "together": together,
        "arithmetic": list(_arithmetic(together, state)),
    }


def _arithmetic(together: dict[str, int], state: GateSnapshot) -> Iterator[str]:
    """One sentence for each fact that decides about admission."""
    budget = state.budget
    yield f"{state.slots_taken} of {budget.max_running} slots are in use."
    if state.waiting:
        yield f"{state.waiting} requests are queued before it."
    if state.held:
        yield "No request is admitted, because the child uses more memory than was predicted."
    if together["running"] and budget.max_active_kv_bytes is not None:
        kv, limit = together["kv_bytes"], budget.max_active_kv_bytes
        yield f"KV of all requests that would run: {gb(kv)}, of {gb(limit)}."
    if budget.ceiling is None:
        yield "There is no plan that says how much memory may be used."
        return
    memory, weights, retained = (
        together[name] for name in ("memory_bytes", "weights_bytes", "retained_bytes")
    )
    yield (
        f"Peak memory: {gb(weights)} of weights + {gb(retained)} of finished sequences "
        f"+ {gb(memory - weights - retained)} of all requests that would run = {gb(memory)}, "
        f"of {gb(budget.ceiling)}."
    )


def memory_limits(gate: Gate, plan: Plan | None, settings: MemorySettings) -> list[dict[str, Any]]:
    """The memory limits in bytes, each with its source."""
    budget = gate.snapshot().budget
    limits = []
    if plan is not None and budget.ceiling is not None:
        then = f"when the child was started, {gb(plan.ceiling.bytes)}: {plan.ceiling.source}"
        moved = budget.ceiling != plan.ceiling.bytes
        source = f"what the machine has now; {then}" if moved else plan.ceiling.source
        limits.append(("ceiling", budget.ceiling, source))
    if budget.max_active_kv_bytes is not None:
        fixed = settings.max_active_kv_bytes != "auto"
        source = "[memory] max_active_kv_bytes" if fixed else "the plan: a share of what the weights leave"
        limits.append(("max_active_kv_bytes", budget.max_active_kv_bytes, source))
    return [{"name": name, "bytes": size, "from": source} for name, size, source in limits]
