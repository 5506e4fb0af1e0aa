"""Arithmetic of silence: learned per phase, never below the stall time, never without end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.silence_limits import MOST, MOST_EXCUSED, Silences, WorkPhase, slowest

STALL_S = 10.0


def test_nothing_learned_is_the_stall_time() -> None:
    for phase in (None, *WorkPhase):
        assert Silences(STALL_S).limit(phase) == STALL_S


def test_slow_steps_give_steps_room_and_nothing_else() -> None:
    silences = Silences(STALL_S).ended(WorkPhase.PREFILL, 8.0)
    assert silences.limit(WorkPhase.PREFILL) == 24.0
    assert silences.limit(WorkPhase.DECODE) == STALL_S
    assert silences.limit(None) == STALL_S


def test_one_long_silence_is_forgotten_in_time() -> None:
    silences = Silences(STALL_S).ended(WorkPhase.PREFILL, 12.0)
    for _ in range(400):
        silences = silences.ended(WorkPhase.PREFILL, 0.5)
    assert silences.limit(WorkPhase.PREFILL) == STALL_S


@given(st.lists(st.tuples(st.sampled_from([None, *WorkPhase]), st.floats(0, 1e9))))
def test_limits_are_bounded_whatever_was_seen(seen: list[tuple[WorkPhase | None, float]]) -> None:
    silences = Silences(STALL_S)
    for phase, silence_s in seen:
        silences = silences.ended(phase, silence_s)
    for phase in (None, *WorkPhase):
        assert STALL_S <= silences.limit(phase) <= MOST * STALL_S


def test_what_was_foreseen_excuses_but_not_for_ever() -> None:
    silences = Silences(STALL_S)
    assert silences.excused(130.0, silent_since=100.0) == 130.0
    assert silences.excused(1e9, silent_since=100.0) == 100.0 + MOST_EXCUSED * STALL_S


def test_a_silence_is_put_down_to_the_slowest_phase() -> None:
    assert slowest([]) is None
    assert slowest([WorkPhase.DECODE]) is WorkPhase.DECODE
    assert slowest([WorkPhase.DECODE, WorkPhase.QUEUED]) is WorkPhase.QUEUED
    assert slowest(WorkPhase) is WorkPhase.PREFILL
