"""When a child that is down will be started again; the whole picture is in test_runner.py."""

from __future__ import annotations

import time

import pytest

from supervisor.lifecycle.state_machine import Life, State
from supervisor.snapshot import next_restart_s


@pytest.mark.parametrize("state", [State.BACKOFF, State.FAILED])
def test_who_waits_is_told_for_how_long(state: State) -> None:
    now = time.monotonic()
    assert next_restart_s(Life(state, 1, now + 60)) == pytest.approx(60, abs=1)
    assert next_restart_s(Life(state, 1, now - 60)) == 0


def test_who_runs_waits_for_nothing() -> None:
    assert next_restart_s(Life(State.READY, 1, time.monotonic() + 60)) is None
    assert next_restart_s(Life(State.FAILED, 1, None)) is None
