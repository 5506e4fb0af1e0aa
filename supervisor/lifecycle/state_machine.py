"""Pure. The life of the child as a table: (state, event) to a new state and the effects to carry out.

An event that a state does not know raises `IllegalEvent` and changes nothing: the life is a frozen value, and
the caller keeps the old one. Times are monotonic seconds. `supervisor.py` is the shell: it feeds events,
carries out effects, and arms one timer for `Life.deadline`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supervisor.lifecycle import events
from supervisor.lifecycle.events import Effect, Event
from supervisor.lifecycle.restart_policy import History, RestartPolicy, Retry, add_restart


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"  # launched, no token produced yet
    READY = "ready"
    DRAINING = "draining"  # planned restart: finishes its requests, gets no new ones
    STOPPING = "stopping"  # told to end, not gone yet
    BACKOFF = "backoff"  # gone, waiting for its restart
    FAILED = "failed"  # given up; started again after the cool-down or on request


class IllegalEvent(Exception):
    """The event does not exist in this state."""


class AfterExit(StrEnum):
    """What follows once a child that was told to end is gone."""

    STAY = "stay"
    START = "start"
    BY_POLICY = "by_policy"  # it had stopped serving: the restart policy decides


@dataclass(frozen=True, slots=True)
class StopStep:
    """One step of a stop: a signal, and the seconds that it is given to take effect."""

    signal: int
    grace_s: float


#: SIGKILL cannot be refused, but a process in an uninterruptible call takes time to end, so it is repeated.
_KILL = StopStep(signal.SIGKILL, 5.0)

#: How a child that no longer serves is stopped. SIGINT lets an idle server with a dead thread shut down in
#: order (hard kills are reported to strand wired memory on a Mac); that takes well under a second or fails.
_STOP_BROKEN = (StopStep(signal.SIGINT, 1.0), StopStep(signal.SIGTERM, 1.0), _KILL)
#: The same for a child that will not react to SIGINT.
_STOP_UNRESPONSIVE = (StopStep(signal.SIGTERM, 1.0), _KILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleRules(RestartPolicy):
    """The restart policy and the time limits of each state, in seconds."""

    start_timeout_s: float = 600.0
    drain_s: float = 30.0
    sigint_grace_s: float = 10.0
    sigterm_grace_s: float = 5.0
    cooldown_s: float = 600.0

    @property
    def stop_sequence(self) -> tuple[StopStep, ...]:
        """The steps of a planned stop, after draining."""
        sigint = StopStep(signal.SIGINT, self.sigint_grace_s)
        return sigint, StopStep(signal.SIGTERM, self.sigterm_grace_s), _KILL


#: Restarts in a row that do not count as crashes. The system chooses the port; if it is taken this often in a
#: row, that is no accident.
MAX_FREE_RETRIES = 5


@dataclass(frozen=True, slots=True)
class Life:
    """Everything that decisions depend on. `ready_at`: when this generation produced its first token."""

    state: State = State.STOPPED
    generation: int = 0
    deadline: float | None = None
    ready_at: float | None = None
    stop_steps: tuple[StopStep, ...] = ()  # of the stop under way; the first is in effect
    after: AfterExit = AfterExit.STAY
    broken: events.Broken | None = None
    history: History = field(default_factory=History)
    free_retries: int = 0

    def next_restart_s(self, now: float) -> float | None:
        """Seconds until a child that is down is started again; None if it is not waiting for a restart."""
        if self.state not in (State.BACKOFF, State.FAILED) or self.deadline is None:
            return None
        return max(0.0, self.deadline - now)


Step = tuple[Life, tuple[Effect, ...]]


def handle(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """Return the next life and the effects to carry out, in order.

    Raises:
        IllegalEvent: the event does not exist in this state.
    """
    step = _TABLE.get((life.state, type(event)))
    if step is None:
        raise IllegalEvent(f"{type(event).__name__} in state {life.state}")
    return step(rules, life, event, now)


def _ignore(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return life, ()


def _start(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    started = Life(State.STARTING, life.generation + 1, history=life.history, free_retries=life.free_retries)
    return started, (events.Launch(started.generation),)


def _start_afresh(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _start(rules, replace(life, history=History(), free_retries=0), event, now)


def _launched(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, deadline=now + rules.start_timeout_s), ()


def _ready(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, state=State.READY, deadline=None, ready_at=now, free_retries=0), ()


def _overdue(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, deadline=None), (events.Overdue(),)


def _drain(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, state=State.DRAINING, deadline=now + rules.drain_s), ()


def _recycle(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    ended = events.EndGeneration(recycled=True)
    return _end(replace(life, after=AfterExit.START), rules.stop_sequence, now, ended)


def _stop(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    ended = events.EndGeneration(recycled=False)
    return _end(replace(life, after=AfterExit.STAY), rules.stop_sequence, now, ended)


def _kill(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    ended = events.EndGeneration(recycled=False)
    return _end(replace(life, after=AfterExit.STAY), (_KILL,), now, ended)


def _broken(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    assert isinstance(event, events.Broken)
    broken = replace(life, after=AfterExit.BY_POLICY, broken=event)
    return _end(broken, _STOP_UNRESPONSIVE if event.ignores_sigint else _STOP_BROKEN, now)


def _already_stopping(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """Accept a restart that is under way anyway, unless this is a stop for good."""
    if life.after is AfterExit.STAY:
        raise IllegalEvent("Recycle while stopping for good")
    return life, ()


def _stay_stopped(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, after=AfterExit.STAY), ()


def _hurry(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _end(replace(life, after=AfterExit.STAY), (_KILL,), now)


def _next_step(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    if life.stop_steps[1:]:
        return _end(life, life.stop_steps[1:], now)
    return _end(life, life.stop_steps, now, events.Force())


def _end(life: Life, stop_steps: tuple[StopStep, ...], now: float, *before: Effect) -> Step:
    first = stop_steps[0]
    stopping = replace(life, state=State.STOPPING, deadline=now + first.grace_s, stop_steps=stop_steps)
    return stopping, (*before, events.Signal(first.signal))


def _exited(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """The process ended without having been told to."""
    assert isinstance(event, events.Exited)
    return _apply_policy(rules, life, event.retry, event.jitter, now)


def _exited_as_told(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    if life.after is AfterExit.START:
        return _start_afresh(rules, life, event, now)
    if life.after is AfterExit.BY_POLICY and life.broken is not None:
        return _apply_policy(rules, life, life.broken.retry, life.broken.jitter, now)
    return _halt(rules, life, event, now)


def _apply_policy(rules: LifecycleRules, life: Life, retry: Retry, jitter: float, now: float) -> Step:
    if retry is Retry.FREE and life.free_retries < MAX_FREE_RETRIES:
        return _start(rules, replace(life, free_retries=life.free_retries + 1), events.Start(), now)
    if retry is Retry.NEVER:
        return _give_up(rules, life, now)
    served = 0.0 if life.ready_at is None else now - life.ready_at
    history, delay_s = add_restart(rules, life.history, now=now, served_s=served, jitter=jitter)
    life = replace(life, history=history)
    if delay_s is None:
        return _give_up(rules, life, now)
    if delay_s == 0.0:
        return _start(rules, life, events.Start(), now)
    return _wait_down(life, State.BACKOFF, now + delay_s), ()


def _give_up(rules: LifecycleRules, life: Life, now: float) -> Step:
    return _wait_down(life, State.FAILED, now + rules.cooldown_s), ()


def _halt(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return Life(generation=life.generation), ()


def _wait_down(life: Life, state: State, deadline: float) -> Life:
    return Life(state, life.generation, deadline, history=life.history, free_retries=life.free_retries)


_Handler = Callable[[LifecycleRules, Life, Event, float], Step]

_TABLE: dict[tuple[State, type[Event]], _Handler] = {
    (State.STOPPED, events.Start): _start,
    (State.STOPPED, events.Stop): _ignore,
    (State.STOPPED, events.Kill): _ignore,
    (State.STARTING, events.Launched): _launched,
    (State.STARTING, events.FirstToken): _ready,
    (State.STARTING, events.Deadline): _overdue,
    (State.STARTING, events.Broken): _broken,
    (State.STARTING, events.Exited): _exited,
    (State.STARTING, events.Stop): _stop,
    (State.STARTING, events.Kill): _kill,
    (State.STARTING, events.Recycle): _recycle,  # no requests yet, so nothing to drain
    (State.READY, events.Broken): _broken,
    (State.READY, events.Exited): _exited,
    (State.READY, events.Stop): _stop,
    (State.READY, events.Kill): _kill,
    (State.READY, events.Recycle): _drain,
    (State.DRAINING, events.Drained): _recycle,
    (State.DRAINING, events.Deadline): _recycle,
    (State.DRAINING, events.Broken): _broken,
    (State.DRAINING, events.Exited): _exited,
    (State.DRAINING, events.Stop): _stop,
    (State.DRAINING, events.Kill): _kill,
    (State.DRAINING, events.Recycle): _ignore,
    (State.STOPPING, events.Deadline): _next_step,
    (State.STOPPING, events.Exited): _exited_as_told,
    (State.STOPPING, events.Stop): _stay_stopped,
    (State.STOPPING, events.Kill): _hurry,
    (State.STOPPING, events.Recycle): _already_stopping,
    (State.BACKOFF, events.Deadline): _start,
    (State.BACKOFF, events.Recycle): _start,
    (State.BACKOFF, events.Stop): _halt,
    (State.BACKOFF, events.Kill): _halt,
    (State.FAILED, events.Deadline): _start_afresh,
    (State.FAILED, events.Recycle): _start_afresh,
    (State.FAILED, events.Stop): _halt,
    (State.FAILED, events.Kill): _halt,
}
