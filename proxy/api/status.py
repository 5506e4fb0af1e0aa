"""What is going on, for people and for programs: running requests, the last ones, and the child."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from proxy.api.metrics import Gauges
from proxy.gate.gate import Gate
from proxy.gate.snapshot import GateSnapshot
from proxy.log.setup import lost_lines
from proxy.memory.guard import MemorySnapshot
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.preparation import Preparation
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from supervisor.lifecycle.state_machine import State
from supervisor.supervisor import ChildSnapshot, Supervisor


class Status:
    """Reads all parts; keeps nothing itself.

    Args:
        started_at: Unix time in whole seconds.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        registry: Registry,
        preparation: Preparation,
        *,
        inquest: Quarantine,
        limits: LearnedLimits,
        memory: Callable[[], MemorySnapshot],
        started_at: int,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._registry = registry
        self._preparation = preparation
        self._inquest = inquest
        self._limits = limits
        self._memory_now = memory
        self.started_at = started_at

    def child(self) -> ChildSnapshot:
        return self._supervisor.snapshot()

    def document(self) -> dict[str, Any]:
        """The body of /mlxguard/api/status. Sizes in bytes, times in seconds, wall clock where absolute."""
        child, gate = self.child(), self._gate.snapshot()
        return {
            "time": time.time(),
            "started": self.started_at,
            "model": self._model(),
            "plan": plan.summary() if (plan := self._preparation.plan) else None,
            "learned_limits": self._limits.document(),
            "suspects": self._inquest.suspects(),
            "child": _describe_child(child),
            "queue": _queue(gate),
            "memory": {"mark": (memory := self._memory_now()).mark.name.lower(), **memory.actions},
            "requests": self._registry.running(),
            "recent": self._registry.recent(),
        }

    def gauges(self) -> Gauges:
        """For metrics, read when they are scraped."""
        child, gate = self.child(), self._gate.snapshot()
        suspects, plan = self._inquest.suspects(), self._preparation.plan
        return Gauges(
            child_state=child.state,
            child_states=tuple(State),
            generation=child.generation,
            deaths_by_cause=_by_name(child),
            running=gate.running,
            waiting=gate.waiting,
            leaving=gate.leaving,
            gate_bytes={kind: size for kind, size in _shared(gate).items() if size is not None},
            corrections=dict(zip(("alone", "together"), gate.corrections, strict=True)),
            memory_bytes={kind: size for kind, size in _memory(child).items() if size is not None},
            memory_mark=(memory := self._memory_now()).mark,
            memory_actions=memory.actions,
            suspects=len(suspects),
            quarantined=sum(each["until"] is not None for each in suspects),
            ceiling_bytes=plan.ceiling.bytes if plan else None,
            max_prompt_tokens=plan.max_prompt if plan else None,
            learned_share=self._limits.learned.share,
            lost_log_lines=lost_lines(),
        )

    def _model(self) -> dict[str, Any] | None:
        prepared = self._preparation.prepared
        if prepared is None:
            return None
        return {
            "context_length": prepared.limits.context_length,
            "max_prompt_tokens": prepared.limits.max_prompt_tokens,
            "overflow_policy": prepared.limits.policy,
            "vocab_size": prepared.tokenizer.vocab_size,
        }


def _queue(gate: GateSnapshot) -> dict[str, Any]:
    """Who runs and waits, and the bytes that are shared out. `leaving`: running for nobody any more."""
    return {
        "running": gate.running,
        "leaving": gate.leaving,
        "waiting": gate.waiting,
        "max_running": gate.budget.max_running,
        "held": gate.held,
        "bytes": _shared(gate),
        "law_corrections": gate.corrections,
    }


def _shared(gate: GateSnapshot) -> dict[str, int | None]:
    """Bytes: what all may come to hold, as foretold, and the most that they may; what finished ones hold."""
    return {
        "reserved": gate.reserved,
        "ceiling": gate.budget.ceiling,
        "retained": gate.retained,
        "lacking": gate.lacking,
    }


def _memory(child: ChildSnapshot) -> dict[str, int | None]:
    """Bytes: `footprint` as the system sees the process, the rest as MLX does from inside (telemetry)."""
    inside = child.telemetry
    return {
        "footprint": child.memory_bytes,
        "active": inside.active_bytes if inside else None,
        "peak": inside.peak_bytes if inside else None,
        "cache": inside.cache_bytes if inside else None,
    }


def _describe_child(child: ChildSnapshot) -> dict[str, Any]:
    return {
        "state": child.state,
        "since": child.since,
        "generation": child.generation,
        "pid": child.pid,
        "port": child.port,
        "in_flight": child.in_flight,
        "restarts": child.restarts,
        "ended_by_cause": _by_name(child),
        "last_death": _last_death(child),
        "next_restart_s": child.next_restart_s,
        "memory": _memory(child),
    }


def _by_name(child: ChildSnapshot) -> dict[str, int]:
    return {cause.value: count for cause, count in child.restarts_by_cause.items()}


def _last_death(child: ChildSnapshot) -> dict[str, Any] | None:
    if child.cause is None:
        return None
    return {"cause": child.cause, "explanation": child.explanation, "advice": child.advice}
