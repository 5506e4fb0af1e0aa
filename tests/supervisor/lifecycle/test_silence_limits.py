"""Silence limits are learned per phase, never below the stall time, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.silence_limits import MAX_EXCUSED, MAX_LIMIT, SilenceLimits, WorkPhase, slowest

STALL_S = 10.0


def test_nothing_learned_is_the_stall_time() -> None:
    for phase in (None, *WorkPhase):
        assert SilenceLimits(STALL_S).limit(phase) == STALL_S


def test_slow_prefill_steps_raise_the_limit_of_prefill_only() -> None:
    limits = SilenceLimits(STALL_S).ended(WorkPhase.PREFILL, 8.0)
    assert limits.limit(WorkPhase.PREFILL) == 24.0
    assert limits.limit(WorkPhase.DECODE) == STALL_S
    assert limits.limit(None) == STALL_S


def test_one_long_silence_is_forgotten_in_time() -> None:
    limits = SilenceLimits(STALL_S).ended(WorkPhase.PREFILL, 12.0)
    for _ in range(400):
        limits = limits.ended(WorkPhase.PREFILL, 0.5)
    assert limits.limit(WorkPhase.PREFILL) == STALL_S


@given(st.lists(st.tuples(st.sampled_from([None, *WorkPhase]), st.floats(0, 1e9))))
def test_limits_are_bounded_whatever_was_seen(seen: list[tuple[WorkPhase | None, float]]) -> None:
    limits = SilenceLimits(STALL_S)
    for phase, silence_s in seen:
        limits = limits.ended(phase, silence_s)
    for phase in (None, *WorkPhase):
        assert STALL_S <= limits.limit(phase) <= MAX_LIMIT * STALL_S


def test_a_predicted_silence_is_excused_up_to_a_bound() -> None:
    limits = SilenceLimits(STALL_S)
    assert limits.excused(130.0, silent_since=100.0) == 130.0
    assert limits.excused(1e9, silent_since=100.0) == 100.0 + MAX_EXCUSED * STALL_S


def test_a_silence_is_attributed_to_the_slowest_phase() -> None:
    assert slowest([]) is None
    assert slowest([WorkPhase.DECODE]) is WorkPhase.DECODE
    assert slowest([WorkPhase.DECODE, WorkPhase.QUEUED]) is WorkPhase.QUEUED
    assert slowest(WorkPhase) is WorkPhase.PREFILL
