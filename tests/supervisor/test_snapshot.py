"""When a child that is down will be started again; test_supervisor.py has the whole snapshot."""

from __future__ import annotations

import time

import pytest

from supervisor.lifecycle.state_machine import Life, State
from supervisor.snapshot import next_restart_s


@pytest.mark.parametrize("state", [State.BACKOFF, State.FAILED])
def test_the_time_until_the_next_restart(state: State) -> None:
    now = time.monotonic()
    assert next_restart_s(Life(state, 1, now + 60)) == pytest.approx(60, abs=1)
    assert next_restart_s(Life(state, 1, now - 60)) == 0


def test_a_running_child_has_no_next_restart() -> None:
    assert next_restart_s(Life(State.READY, 1, time.monotonic() + 60)) is None
    assert next_restart_s(Life(State.FAILED, 1, None)) is None
