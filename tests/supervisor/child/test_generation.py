"""What the gateway is handed: counting requests, and what a death says of itself."""

from __future__ import annotations

import pytest

from supervisor.child.generation import Death, Generation
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.silence_limits import WorkPhase, slowest
from supervisor.lifecycle.state_machine import State


async def test_requests_are_counted_and_the_end_of_the_last_is_told() -> None:
    idle: list[int] = []
    generation = Generation(3, 4711, lambda: idle.append(generation.in_flight))
    with generation.busy():
        with pytest.raises(RuntimeError), generation.busy():
            assert generation.in_flight == 2
            raise RuntimeError
        assert (generation.in_flight, idle) == (1, [])
        generation.progress()
    assert (generation.in_flight, idle, generation.reads) == (0, [0], 1)


async def test_it_is_known_what_the_child_is_at() -> None:
    generation = Generation(3, 4711, lambda: None)
    with generation.busy() as first, generation.busy():
        assert [work.phase for work in generation.works] == [WorkPhase.QUEUED, WorkPhase.QUEUED]
        first.phase = WorkPhase.DECODE
        assert slowest(work.phase for work in generation.works) is WorkPhase.QUEUED
    assert not generation.works


async def test_the_latest_silence_that_is_foreseen_counts() -> None:
    generation = Generation(3, 4711, lambda: None)
    for until in (5.0, 9.0, 7.0):
        generation.expect_silence(until)
    assert generation.silent_until == 9.0


@pytest.mark.parametrize(
    ("cause", "memory", "own"),
    [
        (Cause.METAL_OOM, True, False),
        (Cause.BAD_MODEL, False, False),
        (Cause.WEDGE, False, False),
        (Cause.RECYCLED, False, True),
        (Cause.OWN_STOP, False, True),
    ],
)
def test_what_follows_from_a_death(cause: Cause, memory: bool, own: bool) -> None:
    death = Death(1, cause, "", "", None, None, (), State.READY)
    assert (death.memory, death.own) == (memory, own)


async def test_who_left_is_told_when_the_child_has_noticed() -> None:
    generation = Generation(1, 4711, lambda: None)
    noticed, other = generation.giving_up(50_001), generation.giving_up(50_002)
    generation.gave_up(50_001)
    generation.gave_up(50_003)
    assert (noticed.done(), other.done()) == (True, False)
    other.cancel()
    generation.gave_up(50_002)
    assert generation.telemetry() is None
