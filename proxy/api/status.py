"""The state of the whole gateway at one moment: as a JSON document, and as Prometheus gauges."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from proxy.log.setup import lost_lines
from proxy.memory.guard import MemoryGuard
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.preparation import Preparation
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from supervisor.child.generation import ChildSnapshot
from supervisor.lifecycle.state_machine import State
from supervisor.supervisor import Supervisor


class Status(Collector):
    """Reads the state of all parts when asked, and stores nothing that could become stale.

    `started_at`: Unix time in whole seconds.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        registry: Registry,
        preparation: Preparation,
        *,
        quarantine: Quarantine,
        learned_limits: LearnedLimits,
        memory: MemoryGuard,
        started_at: int,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._registry = registry
        self._preparation = preparation
        self._quarantine = quarantine
        self._learned_limits = learned_limits
        self._memory = memory
        self.started_at = started_at

    def child(self) -> ChildSnapshot:
        return self._supervisor.snapshot()

    def document(self) -> dict[str, Any]:
        """The body of /mlxguard/api/status: sizes in bytes, durations in seconds, dates in Unix time."""
        memory = self._memory.snapshot()
        return {
            "time": time.time(),
            "started_at": self.started_at,
            "model": self._model(),
            "plan": plan.summary() if (plan := self._preparation.plan) else None,
            "learned": self._learned_limits.document(),
            "suspects": self._quarantine.suspects(),
            "child": _child(self.child()),
            "queue": _queue(self._gate.snapshot()),
            "memory": {"pressure": memory.mark.name.lower(), **memory.actions},
            "requests": self._registry.running(),
            "recent": self._registry.recent(),
        }

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read at each scrape; `Metrics` has the ones that are counted."""
        child, gate, memory = self.child(), self._gate.snapshot(), self._memory.snapshot()
        suspects, plan = self._quarantine.suspects(), self._preparation.plan
        states = {state.value: float(state is child.state) for state in State}
        yield _gauge("child_state", "1 for the current state of the child, else 0.", states, "state")
        yield _gauge("child_generation", "Child process generations started.", child.generation)
        yield _counter("child_exits", "Exits of the child process by cause.", _exits(child), "cause")
        yield _gauge("child_memory_bytes", "Memory of the child process.", _memory_of(child), "kind")
        about = "Requests that the child has answered since its start and that the proxy did not send."
        yield _gauge("unaccounted_requests", about, child.unaccounted)
        yield _gauge("requests_running", "Requests that the child is working on.", gate.running)
        yield _gauge("requests_waiting", "Requests in the queue.", gate.waiting)
        about = "Running requests whose clients have disconnected."
        yield _gauge("requests_disconnected", about, gate.disconnected)
        about = "Memory as admission control accounts for it."
        yield _gauge("gate_bytes", about, _gate_bytes(gate), "kind")
        about = "Learned factor by which predicted memory, without the weights, is multiplied."
        yield _gauge("cost_model_correction", about, _corrections(gate), "kind")
        about = "0: enough memory; 1: no request is admitted; 2: running requests are ended."
        yield _gauge("memory_pressure_level", about, memory.mark)
        about = "Actions taken because memory was short."
        yield _counter("memory_actions", about, memory.actions, "action")
        yield _gauge("suspects", "Requests suspected of crashing the child.", len(suspects))
        quarantined = sum(each["until"] is not None for each in suspects)
        yield _gauge("quarantined", "Suspected requests that are refused at present.", quarantined)
        about = "Part of the memory ceiling that may be used, as learned from crashes; 1 at first."
        yield _gauge("learned_ceiling_ratio", about, self._learned_limits.learned.share)
        about = "Answers with other prompt tokens than were counted, since the tokenizer was loaded."
        yield _gauge("count_differences", about, self._preparation.count_differences)
        yield _counter("log_lines_lost", "Log lines that could not be written.", lost_lines())
        if plan is not None:
            yield _gauge("memory_ceiling_bytes", "Memory that the child may use.", plan.ceiling.bytes)
            if plan.max_prompt is not None:
                yield _gauge("plan_max_prompt_tokens", "Longest prompt that fits in memory.", plan.max_prompt)

    def _model(self) -> dict[str, Any] | None:
        prepared = self._preparation.prepared
        if prepared is None:
            return None
        return {
            "context_length": prepared.limits.context_length,
            "max_prompt_tokens": prepared.limits.max_prompt_tokens,
            "overflow_policy": prepared.limits.policy,
            "vocab_size": prepared.tokenizer.vocab_size,
            "count_differences": self._preparation.count_differences,
            "warnings": prepared.tokenizer.warnings,
        }


Values = float | Mapping[str, float | None]


def _gauge(name: str, about: str, values: Values, label: str = "") -> Metric:
    return _filled(GaugeMetricFamily(f"mlxguard_{name}", about, labels=[label] if label else []), values)


def _counter(name: str, about: str, values: Values, label: str = "") -> Metric:
    return _filled(CounterMetricFamily(f"mlxguard_{name}", about, labels=[label] if label else []), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    """Add the values, by label value or one alone; unknown ones (None) are left out."""
    if not isinstance(values, Mapping):
        family.add_metric([], values)
    else:
        for label, value in values.items():
            if value is not None:
                family.add_metric([label], value)
    return family


def _queue(gate: GateSnapshot) -> dict[str, Any]:
    """`disconnected`: running, but without a client; `paused`: no request is admitted, memory being short."""
    return {
        "running": gate.running,
        "disconnected": gate.disconnected,
        "waiting": gate.waiting,
        "max_running": gate.budget.max_running,
        "paused": gate.held,
        "bytes": _gate_bytes(gate),
        "cost_model_corrections": _corrections(gate),
    }


def _gate_bytes(gate: GateSnapshot) -> dict[str, int | None]:
    """Predicted peak, its limit, KV of finished sequences, and how much of that must be evicted."""
    return {
        "reserved": gate.reserved,
        "ceiling": gate.budget.ceiling,
        "retained": gate.retained,
        "eviction_needed": gate.eviction_needed,
    }


def _corrections(gate: GateSnapshot) -> dict[str, float]:
    return dict(zip(("alone", "together"), gate.corrections, strict=True))


def _memory_of(child: ChildSnapshot) -> dict[str, int | None]:
    """`footprint`: as the system sees the process; the others: as MLX reports them, by telemetry."""
    telemetry = child.telemetry
    return {
        "footprint": child.memory_bytes,
        "active": telemetry.active_bytes if telemetry else None,
        "peak": telemetry.peak_bytes if telemetry else None,
        "cache": telemetry.cache_bytes if telemetry else None,
    }


def _child(child: ChildSnapshot) -> dict[str, Any]:
    death = {"cause": child.cause, "explanation": child.explanation, "advice": child.advice}
    return {
        "state": child.state,
        "state_since": child.since,
        "generation": child.generation,
        "pid": child.pid,
        "port": child.port,
        "in_flight": child.in_flight,
        "unaccounted_requests": child.unaccounted,
        "restarts": child.restarts,
        "exits_by_cause": _exits(child),
        "last_death": None if child.cause is None else death,
        "next_restart_s": child.next_restart_s,
        "memory": _memory_of(child),
    }


def _exits(child: ChildSnapshot) -> dict[str, int]:
    return {cause.value: count for cause, count in child.restarts_by_cause.items()}
