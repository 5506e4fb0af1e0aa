"""The child's life as transcripts: events in, state and effects out, with `now` as an argument."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import product

import pytest

from supervisor.lifecycle.events import (
    Broken,
    Deadline,
    Drained,
    Effect,
    EndGeneration,
    Event,
    Exited,
    FirstToken,
    Force,
    Kill,
    Launch,
    Launched,
    Overdue,
    Recycle,
    Signal,
    Start,
    Stop,
)
from supervisor.lifecycle.restart_policy import Retry
from supervisor.lifecycle.state_machine import (
    MAX_FREE_RETRIES,
    AfterExit,
    IllegalEvent,
    Life,
    LifecycleRules,
    State,
    handle,
)

RULES = LifecycleRules(
    max_restarts=2,
    restart_window_s=100.0,
    backoff_base_s=4.0,
    backoff_max_s=30.0,
    start_timeout_s=60.0,
    drain_s=20.0,
    sigint_grace_s=10.0,
    sigterm_grace_s=5.0,
    cooldown_s=600.0,
)
INT, TERM, KILL = Signal(signal.SIGINT), Signal(signal.SIGTERM), Signal(signal.SIGKILL)
EVENTS = (
    Start(),
    Launched(),
    FirstToken(),
    Broken(Retry.COUNTED, 0.5),
    Exited(jitter=0.5),
    Stop(),
    Kill(),
    Recycle(),
    Drained(),
    Deadline(),
)


class Story:
    """Feeds events and keeps the life, as the supervisor does."""

    def __init__(self, *events: Event) -> None:
        self.life = Life()
        for event in events:
            self.then(event)

    def then(self, event: Event, now: float = 0.0) -> tuple[Effect, ...]:
        self.life, effects = handle(RULES, self.life, event, now)
        return effects

    @property
    def state(self) -> State:
        return self.life.state


def starting() -> Story:
    return Story(Start(), Launched())


def ready() -> Story:
    return Story(Start(), Launched(), FirstToken())


def test_a_start_that_goes_well() -> None:
    story = Story()
    assert story.then(Start()) == (Launch(1),)
    assert story.life.deadline is None  # preparing may download for hours
    assert story.then(Launched(), now=100.0) == ()
    assert story.life.deadline == 160.0
    assert story.then(FirstToken(), now=103.0) == ()
    assert (story.state, story.life.deadline, story.life.ready_at) == (State.READY, None, 103.0)


def test_a_start_that_takes_too_long_is_examined_then_ended() -> None:
    story = starting()
    assert story.then(Deadline(), now=60.0) == (Overdue(),)
    assert (story.state, story.life.deadline) == (State.STARTING, None)
    assert story.then(Broken(Retry.COUNTED, 0.5, ignores_sigint=True), now=60.0) == (TERM,)
    assert story.then(Deadline(), now=61.0) == (KILL,)
    assert story.then(Exited(), now=61.0) == (Launch(2),)


def test_the_first_crash_restarts_at_once_the_second_waits_the_third_gives_up() -> None:
    story = ready()
    assert story.then(Exited(jitter=0.5), now=10.0) == (Launch(2),)
    story.then(Launched(), now=10.0)
    story.then(FirstToken(), now=11.0)
    assert story.then(Exited(jitter=0.5), now=12.0) == ()
    assert (story.state, story.life.deadline) == (State.BACKOFF, 14.0)
    assert story.then(Deadline(), now=14.0) == (Launch(3),)
    assert story.then(Exited(jitter=0.5), now=15.0) == ()
    assert (story.state, story.life.deadline) == (State.FAILED, 615.0)


@pytest.mark.parametrize("event", [Deadline(), Recycle()])
def test_a_failed_child_is_tried_again_with_a_clean_record(event: Event) -> None:
    story = starting()
    assert story.then(Exited(Retry.NEVER), now=1.0) == ()
    assert story.state is State.FAILED
    assert story.then(event, now=601.0) == (Launch(2),)
    assert story.life.history.restarts == ()
    assert story.then(Exited(jitter=0.5), now=602.0) == (Launch(3),)


def test_a_broken_child_is_stopped_and_then_restarted_by_policy() -> None:
    story = ready()
    assert story.then(Broken(Retry.COUNTED, 0.5), now=5.0) == (INT,)
    assert (story.state, story.life.deadline) == (State.STOPPING, 6.0)
    assert story.then(Exited(Retry.NEVER), now=5.2) == (Launch(2),)  # its exit says nothing new


def test_a_broken_child_that_a_restart_cannot_help_ends_in_failed() -> None:
    story = starting()
    story.then(Broken(Retry.NEVER, 0.5))
    assert story.then(Exited()) == ()
    assert story.state is State.FAILED


def test_a_taken_port_costs_no_restart_but_is_not_tried_for_ever() -> None:
    story = starting()
    for generation in range(2, MAX_FREE_RETRIES + 2):
        story.then(Broken(Retry.FREE, 0.5))
        assert story.then(Exited()) == (Launch(generation),)
        assert story.life.history.restarts == ()
    story.then(Broken(Retry.FREE, 0.5))
    story.then(Exited())
    assert len(story.life.history.restarts) == 1


def test_a_stop_goes_from_sigint_to_sigkill_each_with_its_grace() -> None:
    story = ready()
    assert story.then(Stop(), now=0.0) == (EndGeneration(recycled=False), INT)
    assert story.life.deadline == 10.0
    assert story.then(Deadline(), now=10.0) == (TERM,)
    assert story.life.deadline == 15.0
    assert story.then(Deadline(), now=15.0) == (KILL,)
    assert story.then(Deadline(), now=20.0) == (Force(), KILL)
    assert story.then(Deadline(), now=25.0) == (Force(), KILL)
    assert story.then(Exited(), now=26.0) == ()
    assert story.life == Life(generation=1)


def test_a_second_ctrl_c_kills_at_once() -> None:
    story = ready()
    story.then(Stop())
    assert story.then(Kill()) == (KILL,)
    assert story.then(Exited()) == ()
    assert story.state is State.STOPPED


def test_a_recycle_drains_stops_in_order_and_starts_uncounted() -> None:
    story = ready()
    assert story.then(Recycle(), now=0.0) == ()
    assert (story.state, story.life.deadline) == (State.DRAINING, 20.0)
    assert story.then(Recycle(), now=1.0) == ()
    assert story.then(Drained(), now=3.0) == (EndGeneration(recycled=True), INT)
    assert story.then(Recycle(), now=3.0) == ()
    assert story.then(Exited(), now=4.0) == (Launch(2),)
    assert story.life.history.restarts == ()


def test_a_recycle_that_does_not_drain_cuts() -> None:
    story = ready()
    story.then(Recycle(), now=0.0)
    assert story.then(Deadline(), now=20.0) == (EndGeneration(recycled=True), INT)


def test_a_crash_while_draining_is_a_crash() -> None:
    story = ready()
    story.then(Recycle(), now=0.0)
    assert story.then(Exited(jitter=0.5), now=1.0) == (Launch(2),)
    assert story.life.history.restarts == (1.0,)


def test_a_stop_wins_over_a_restart_under_way() -> None:
    for first in (Recycle(), Broken(Retry.COUNTED, 0.5)):
        story = starting()
        story.then(first)
        assert (story.state, story.then(Stop())) == (State.STOPPING, ())
        assert story.life.after is AfterExit.STAY
        with pytest.raises(IllegalEvent):
            story.then(Recycle())
        assert story.then(Exited()) == ()
        assert story.state is State.STOPPED


def test_a_stop_while_nothing_is_started_yet_waits_for_the_exit() -> None:
    story = Story(Start())
    assert story.then(Stop()) == (
        EndGeneration(recycled=False),
        INT,
    )  # the supervisor gives up preparing and reports Exited
    story.then(Exited())
    assert story.state is State.STOPPED


@pytest.mark.parametrize("leave", [Stop(), Kill()])
def test_waiting_states_stop_at_once(leave: Event) -> None:
    for story in (backing_off(), failed()):
        assert story.then(leave) == ()
        assert story.life == Life(generation=story.life.generation)


def test_a_recycle_cuts_the_back_off_short() -> None:
    story = backing_off()
    assert story.then(Recycle()) == (Launch(3),)


def backing_off() -> Story:
    story = ready()
    story.then(Exited(jitter=0.5))
    story.then(Exited(jitter=0.5))
    assert story.state is State.BACKOFF
    return story


def failed() -> Story:
    story = starting()
    story.then(Exited(Retry.NEVER))
    return story


def stories() -> Iterator[Story]:
    yield Story()
    yield starting()
    yield ready()
    yield Story(Start(), Launched(), FirstToken(), Recycle())
    yield Story(Start(), Launched(), FirstToken(), Stop())
    yield backing_off()
    yield failed()


def test_every_event_in_every_state_is_handled_or_changes_nothing() -> None:
    seen = set()
    for story, event in product(stories(), EVENTS):
        seen.add(story.state)
        before = story.life
        try:
            after, _ = handle(RULES, before, event, 0.0)
        except IllegalEvent:
            continue
        assert after.generation - before.generation in (0, 1)
        # A state that must not last has a deadline, with one exception: preparing may take any time.
        if after.state in (State.DRAINING, State.STOPPING, State.BACKOFF, State.FAILED):
            assert after.deadline is not None
        if after.state in (State.STOPPED, State.READY):
            assert after.deadline is None
    assert seen == set(State)


@pytest.mark.parametrize("story", tuple(stories()), ids=lambda story: story.state)
def test_the_end_of_a_child_and_a_stop_are_understood_wherever_one_can_run(story: Story) -> None:
    handle(RULES, story.life, Stop(), 0.0)
    handle(RULES, story.life, Kill(), 0.0)
    if story.state in (State.STARTING, State.READY, State.DRAINING, State.STOPPING):
        handle(RULES, story.life, Exited(), 0.0)


@pytest.mark.parametrize("state", [State.BACKOFF, State.FAILED])
def test_the_time_until_the_next_restart(state: State) -> None:
    assert Life(state, 1, 160.0).next_restart_s(100.0) == 60
    assert Life(state, 1, 40.0).next_restart_s(100.0) == 0


def test_a_running_child_has_no_next_restart() -> None:
    assert Life(State.READY, 1, 160.0).next_restart_s(100.0) is None
    assert Life(State.FAILED, 1, None).next_restart_s(100.0) is None
