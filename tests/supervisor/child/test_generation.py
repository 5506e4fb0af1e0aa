"""What the gateway gets: a generation that counts requests, and a death that knows its kind."""

from __future__ import annotations

import pytest

from supervisor.child.generation import Death, Generation
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.silence_limits import WorkPhase, slowest
from supervisor.lifecycle.state_machine import State


async def test_requests_are_counted_and_the_end_of_the_last_is_reported() -> None:
    idle: list[int] = []
    generation = Generation(3, 4711, lambda: idle.append(generation.in_flight), lambda: None)
    with generation.busy():
        with pytest.raises(RuntimeError), generation.busy():
            assert generation.in_flight == 2
            raise RuntimeError
        assert (generation.in_flight, idle) == (1, [])
        generation.progress()
    assert (generation.in_flight, idle, generation.reads) == (0, [0], 1)


async def test_the_phase_of_each_request_is_known() -> None:
    generation = Generation(3, 4711, lambda: None, lambda: None)
    with generation.busy() as first, generation.busy():
        assert [work.phase for work in generation.work] == [WorkPhase.QUEUED, WorkPhase.QUEUED]
        first.phase = WorkPhase.DECODE
        assert slowest(work.phase for work in generation.work) is WorkPhase.QUEUED
    assert not generation.work


async def test_the_latest_predicted_end_of_silence_counts() -> None:
    generation = Generation(3, 4711, lambda: None, lambda: None)
    for until in (5.0, 9.0, 7.0):
        generation.expect_silence(until)
    assert generation.silence_expected_until == 9.0


@pytest.mark.parametrize(
    ("cause", "memory", "planned"),
    [
        (Cause.METAL_OOM, True, False),
        (Cause.BAD_MODEL, False, False),
        (Cause.WEDGE, False, False),
        (Cause.RECYCLED, False, True),
        (Cause.OWN_STOP, False, True),
    ],
)
def test_what_follows_from_a_death_s_cause(cause: Cause, memory: bool, planned: bool) -> None:
    death = Death(1, cause, "", "", None, None, (), State.READY)
    assert (death.memory, death.planned) == (memory, planned)


async def test_a_drop_resolves_once_the_child_has_noticed_it() -> None:
    generation = Generation(1, 4711, lambda: None, lambda: None)
    noticed, other = generation.drop_noticed(50_001), generation.drop_noticed(50_002)
    generation.connection_dropped(50_001)
    generation.connection_dropped(50_003)
    assert (noticed.done(), other.done()) == (True, False)
    other.cancel()
    generation.connection_dropped(50_002)
    assert generation.telemetry() is None
