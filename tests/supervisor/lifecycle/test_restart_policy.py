"""Restart intensity and back-off, as arithmetic over `now=`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.restart_policy import History, RestartPolicy, add_restart, backoff

POLICY = RestartPolicy(max_restarts=3, restart_window_s=100.0, backoff_base_s=1.0, backoff_max_s=8.0)


def restart_all(times: list[float], served_s: float = 0.0) -> list[float | None]:
    history, delays = History(), []
    for now in times:
        history, delay_s = add_restart(POLICY, history, now=now, served_s=served_s, jitter=0.5)
        delays.append(delay_s)
    return delays


def test_first_restart_is_immediate_then_the_wait_doubles_until_the_intensity_is_exceeded() -> None:
    assert restart_all([0.0, 10.0, 20.0, 30.0]) == [0.0, 0.5, 1.0, None]


def test_restarts_that_left_the_window_are_forgotten() -> None:
    assert restart_all([0.0, 10.0, 20.0, 125.0, 126.0]) == [0.0, 0.5, 1.0, 0.0, 0.5]


def test_a_stable_run_starts_a_new_streak_but_still_counts() -> None:
    assert restart_all([0.0, 10.0, 20.0, 30.0], served_s=9.0) == [0.0, 0.0, 0.0, None]


def test_no_restart_is_allowed_at_intensity_zero() -> None:
    none = RestartPolicy(max_restarts=0, restart_window_s=100.0, backoff_base_s=1.0, backoff_max_s=8.0)
    assert add_restart(none, History(), now=0.0, served_s=1e9, jitter=0.0)[1] is None


@pytest.mark.parametrize(
    ("streak", "most"), [(0, 0.0), (1, 1.0), (2, 2.0), (4, 8.0), (5, 8.0), (10_000, 8.0)]
)
def test_jitter_scales_the_whole_wait(streak: int, most: float) -> None:
    assert backoff(POLICY, streak, 0.0) == 0.0
    assert backoff(POLICY, streak, 1.0) == most


@given(st.lists(st.floats(0, 50), max_size=60))
def test_never_more_restarts_in_a_window_than_allowed_and_the_history_is_bounded(gaps: list[float]) -> None:
    history, now, granted = History(), 0.0, []
    for gap in gaps:
        now += gap
        history, delay_s = add_restart(POLICY, history, now=now, served_s=gap, jitter=0.99)
        assert len(history.restarts) <= POLICY.max_restarts + 1
        if delay_s is None:
            break
        granted.append(now)
        assert sum(now - at < POLICY.restart_window_s for at in granted) <= POLICY.max_restarts
