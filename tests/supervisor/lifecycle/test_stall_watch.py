"""When silence is a stall: arithmetic over `now=` and `wall=`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisor.lifecycle.silence_limits import MAX_EXCUSED, WorkPhase
from supervisor.lifecycle.stall_watch import SPINNING, Signs, Stall, StallWatch, moved

BUSY = Signs(in_flight=1, reads=0, beat=0, memory=(7, 3))
IDLE = replace(BUSY, in_flight=0)


class Clock:
    """Ticks twice a second: monotonic and wall clock together, unless told otherwise."""

    def __init__(self, stall_s: float = 60.0, canary_timeout_s: float = 10.0) -> None:
        self.now, self.wall = 1000.0, 5e8
        self.watch = StallWatch(stall_s, canary_timeout_s, BUSY, now=self.now, wall=self.wall)

    def tick(self, signs: Signs, step: float = 0.5, wall_step: float | None = None) -> Stall:
        self.now += step
        self.wall += step if wall_step is None else wall_step
        return self.watch.tick(signs, now=self.now, wall=self.wall)

    def until_stall(self, signs: Callable[[int], Signs], limit_s: float = 1000.0) -> tuple[float, Stall]:
        start, number = self.now, 0
        while self.now - start < limit_s:
            number += 1
            if (stall := self.tick(signs(number))) is not Stall.NONE:
                return self.now - start, stall
        return limit_s, Stall.NONE


def test_a_busy_child_that_does_not_move_is_tested_so_that_the_canary_ends_with_the_stall_time() -> None:
    assert Clock(60.0, 10.0).until_stall(lambda n: BUSY) == (50.0, Stall.QUIET)
    assert Clock(4.0, 10.0).until_stall(lambda n: BUSY) == (2.0, Stall.QUIET)


@pytest.mark.parametrize(
    "signs",
    [
        lambda n: replace(BUSY, reads=n // 80),  # a byte every 40 s
        lambda n: replace(BUSY, memory=(7, n // 80)),  # a long prefill, the text of a tool call
        lambda n: IDLE,
    ],
)
def test_bytes_changing_memory_and_having_no_work_are_no_stall(signs: Callable[[int], Signs]) -> None:
    assert Clock().until_stall(signs, limit_s=5000.0) == (5000.0, Stall.NONE)


def test_a_thread_that_only_moves_may_be_searching_but_not_for_ever() -> None:
    assert Clock().until_stall(lambda n: replace(BUSY, beat=n)) == (SPINNING * 50.0, Stall.SPINNING)


def test_an_idle_child_that_does_not_even_answer_health_is_tested() -> None:
    assert Clock().until_stall(lambda n: replace(IDLE, heard=False)) == (50.0, Stall.QUIET)


def test_a_machine_that_slept_starts_the_silence_anew() -> None:
    clock = Clock()
    for _ in range(80):
        assert clock.tick(BUSY) is Stall.NONE
    assert clock.tick(BUSY, step=0.5, wall_step=3600.0) is Stall.NONE  # monotonic clocks stop in sleep
    assert clock.until_stall(lambda n: BUSY) == (50.0, Stall.QUIET)
    assert clock.tick(BUSY, step=120.0) is Stall.NONE  # the gateway itself was stopped
    clock.watch.reset(clock.now)
    assert clock.until_stall(lambda n: BUSY) == (50.0, Stall.QUIET)


def test_slow_steps_of_a_prompt_are_no_stall_once_they_are_known() -> None:
    clock = Clock()
    step = replace(BUSY, phase=WorkPhase.PREFILL)
    for number in range(3):  # a byte every 30 s
        for _ in range(60):
            assert clock.tick(replace(step, reads=number)) is Stall.NONE
    stalled_s, stall = clock.until_stall(lambda n: replace(step, reads=3))
    assert stall is Stall.QUIET
    assert 85.0 <= stalled_s <= 95.0


def test_a_predicted_silence_is_no_stall_until_its_predicted_end() -> None:
    clock = Clock()
    predicted = replace(BUSY, silence_expected_until=clock.now + 100.0)
    assert clock.until_stall(lambda n: predicted) == (150.0, Stall.QUIET)


def test_repeated_predictions_do_not_excuse_a_wedge_for_ever() -> None:
    clock = Clock()
    stalled_s, _ = clock.until_stall(
        lambda n: replace(BUSY, silence_expected_until=clock.now + 100.0), 2000.0
    )
    assert stalled_s == (MAX_EXCUSED + 1) * 50.0


def test_what_counts_as_activity_while_a_canary_is_unanswered() -> None:
    assert not moved(BUSY, BUSY, Stall.QUIET)
    assert moved(BUSY, replace(BUSY, beat=1), Stall.QUIET)
    assert not moved(BUSY, replace(BUSY, beat=1), Stall.SPINNING)
    assert moved(BUSY, replace(BUSY, memory=(8, 3)), Stall.SPINNING)
    assert moved(BUSY, replace(BUSY, reads=1), Stall.SPINNING)
