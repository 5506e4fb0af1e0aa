"""The supervisor's state at one moment, for status, metrics and `NotReady`."""

from __future__ import annotations

import time

from supervisor.child.attempt import Attempt
from supervisor.child.generation import ChildSnapshot
from supervisor.crash_reports import CrashReports
from supervisor.lifecycle.state_machine import Life, State


def take_snapshot(
    life: Life, since: float, crash_reports: CrashReports, attempt: Attempt | None
) -> ChildSnapshot:
    """The state now. `since`: when it began, in wall-clock seconds."""
    last = crash_reports.last
    child = attempt.child if attempt else None
    generation = attempt.generation if attempt else None
    return ChildSnapshot(
        state=life.state,
        generation=life.generation,
        cause=last.cause if last else None,
        explanation=last.explanation if last else None,
        advice=last.advice if last else None,
        pid=child.pid if child else None,
        port=attempt.port if attempt and child else None,
        since=since,
        ready_since=attempt.ready_since if attempt and child else None,
        restarts=max(0, life.generation - 1),
        restarts_by_cause=crash_reports.by_cause,
        next_restart_s=next_restart_s(life),
        in_flight=generation.in_flight if generation else 0,
        telemetry=child.telemetry if child else None,
        memory_bytes=attempt.memory_bytes() if attempt else None,
        log_tail=attempt.transcript.lines if attempt else (),
    )


def next_restart_s(life: Life) -> float | None:
    """Seconds until a child that is down is started again; None if it is not waiting for a restart."""
    if life.state not in (State.BACKOFF, State.FAILED) or life.deadline is None:
        return None
    return max(0.0, life.deadline - time.monotonic())
