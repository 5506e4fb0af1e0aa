"""What a request would cost and whether it would run now, in numbers and as arithmetic. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.config.settings import MemorySettings
from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from supervisor.memory_model.ceiling import gb
from supervisor.memory_model.plan import Plan


def prospect(gate: Gate, client: str, prompt: int, max_tokens: int) -> dict[str, Any]:
    """Of a request of `prompt` tokens, as the gate would have it if it came now. Bytes.

    `alone` is what it takes beside the weights if nothing else runs; `together` all of them, at the fullest
    moment that is to come, with those that run now.
    """
    ticket = gate.ticket("", client, arrived=0, deadline=0, prompt=prompt, max_tokens=max_tokens)
    state, running = gate.snapshot(), [need for _, need, _ in gate.running()]
    costs, need = state.budget.costs, ticket.need
    together = {
        "running": len(running),
        "waiting": state.waiting,
        "kv_bytes": costs.kv((*running, need)),
        "weights_bytes": costs.weights,
        "retained_bytes": state.retained,
        "memory_bytes": costs.peak((*running, need), state.retained),
    }
    return {
        "would_run": gate.would_run(client, prompt, max_tokens).value,
        "expected_completion_tokens": need.completion,
        "alone": {"kv_bytes": costs.kv((need,)), "memory_bytes": costs.peak((need,), 0) - costs.weights},
        "together": together,
        "arithmetic": list(_arithmetic(together, state)),
    }


def _arithmetic(together: dict[str, int], state: GateSnapshot) -> Iterator[str]:
    """One sentence for each thing that decides."""
    budget, running = state.budget, together["running"]
    yield f"{state.places_taken} of {budget.max_running} places are taken."
    if state.waiting:
        yield f"{state.waiting} wait before it."
    if state.held:
        yield "Nobody is let in, because the child has more memory than was foretold."
    if running and budget.max_active_kv_bytes is not None:
        kv, most = together["kv_bytes"], budget.max_active_kv_bytes
        yield f"KV of all that would run: {gb(kv)}, of {gb(most)}."
    if budget.ceiling is None:
        yield "No plan says how much memory there is."
        return
    memory, weights, retained = (
        together[name] for name in ("memory_bytes", "weights_bytes", "retained_bytes")
    )
    yield (
        f"Memory at the fullest moment: {gb(weights)} of weights + {gb(retained)} of finished sequences "
        f"+ {gb(memory - weights - retained)} of all that would run = {gb(memory)}, of {gb(budget.ceiling)}."
    )


def memory_limits(gate: Gate, plan: Plan | None, settings: MemorySettings) -> list[dict[str, Any]]:
    """The limits in bytes, each with the place where it was made."""
    budget = gate.snapshot().budget
    found = []
    if plan is not None and budget.ceiling is not None:
        found.append(("ceiling", budget.ceiling, _source(plan, budget.ceiling)))
    if budget.max_active_kv_bytes is not None:
        fixed = settings.max_active_kv_bytes != "auto"
        place = "[memory] max_active_kv_bytes" if fixed else "the plan: a share of what the weights leave"
        found.append(("max_active_kv_bytes", budget.max_active_kv_bytes, place))
    return [{"name": name, "bytes": size, "from": place} for name, size, place in found]


def _source(plan: Plan, ceiling: int) -> str:
    planned = plan.ceiling
    if ceiling == planned.bytes:
        return planned.source
    return f"what the machine has now; when the child was started, {gb(planned.bytes)}: {planned.source}"
