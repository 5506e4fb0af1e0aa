"""A snapshot stays as it is while the gate goes on."""

from __future__ import annotations

from dataclasses import replace

from proxy.gate.budget import Budget
from proxy.gate.gate import Gate


def test_a_snapshot_does_not_follow_the_gate() -> None:
    gate = Gate(
        Budget(max_running=1, ceiling=1000), max_waiting=8, on_sample=lambda _: None, clock=lambda: 0.0
    )
    before = gate.snapshot()
    gate.hold(True)
    gate.set_retained(7)
    assert gate.snapshot() == replace(before, held=True, retained=7)
    assert not before.held
