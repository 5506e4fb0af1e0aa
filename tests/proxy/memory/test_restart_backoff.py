"""Planned restarts for memory get rarer with each one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.memory.restart_backoff import RECYCLE_S, RestartBackoff


@given(st.lists(st.floats(0, 5000), max_size=100))
def test_recycles_get_rarer(pauses: list[float]) -> None:
    backoff, now, times = RestartBackoff(), 0.0, []
    for pause in pauses:
        now += pause
        if backoff.due(now):
            backoff, times = backoff.after(now), [*times, now]
    gaps = [b - a for a, b in pairwise(times)]
    assert all(gap >= RECYCLE_S * 2**number for number, gap in enumerate(gaps))
