"""The life of the child as a table: (state, event) to a new state and the effects to carry out (pure).

An event that a state does not know raises `IllegalEvent` and changes nothing: the life is a frozen value
and the caller keeps the old one. Times are monotonic seconds. `runner.py` is the shell: it feeds events,
carries out effects, and arms one timer for `Life.deadline`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supervisor.lifecycle.events import (
    Broke,
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
from supervisor.lifecycle.restart_policy import History, RestartPolicy, Retry, add_restart


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"  # launched, has not yet produced a token
    READY = "ready"
    DRAINING = "draining"  # planned restart: serves what it has, gets nothing new
    STOPPING = "stopping"  # told to go, not yet gone
    BACKOFF = "backoff"  # gone, waits for its restart
    FAILED = "failed"  # given up; tried again after the cool-down or when asked


class IllegalEvent(Exception):
    """The event does not exist in this state."""


class After(StrEnum):
    """What follows once a child that was told to go is gone."""

    STAY = "stay"
    START = "start"
    WEIGH = "weigh"  # it had broken: restart by policy


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the way out: a signal, and the seconds it is given to work."""

    signal: int
    grace_s: float


#: SIGKILL cannot be refused, but a process in an uninterruptible call takes its time: ask again.
_KILL = Rung(signal.SIGKILL, 5.0)

#: What a broken child gets. SIGINT lets an idle server with a dead thread close in order (hard kills are
#: reported to strand wired memory on a Mac); it needs well under a second or will never do it.
_BROKEN = (Rung(signal.SIGINT, 1.0), Rung(signal.SIGTERM, 1.0), _KILL)
_FIRMLY = (Rung(signal.SIGTERM, 1.0), _KILL)


@dataclass(frozen=True, slots=True)
class LifecycleRules:
    """Times in seconds, see `[supervisor]` of proxy.toml."""

    policy: RestartPolicy
    start_timeout_s: float
    drain_s: float
    sigint_grace_s: float
    sigterm_grace_s: float
    cooldown_s: float

    @property
    def way_out(self) -> tuple[Rung, ...]:
        """The order of a planned stop. Draining came before it."""
        return Rung(signal.SIGINT, self.sigint_grace_s), Rung(signal.SIGTERM, self.sigterm_grace_s), _KILL


#: Ports are chosen by the system; one that is taken so often in a row is no accident.
FREE_TRIES = 5


@dataclass(frozen=True, slots=True)
class Life:
    """Everything the decisions depend on. `ready_at`: when this generation produced its first token."""

    state: State = State.STOPPED
    generation: int = 0
    deadline: float | None = None
    ready_at: float | None = None
    rungs: tuple[Rung, ...] = ()  # of the way out; the first is in effect
    after: After = After.STAY
    broke: Broke | None = None
    history: History = field(default_factory=History)
    free_tries: int = 0


Step = tuple[Life, tuple[Effect, ...]]


def handle(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """The next life and the effects to carry out, in order.

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
    born = Life(State.STARTING, life.generation + 1, history=life.history, free_tries=life.free_tries)
    return born, (Launch(born.generation),)


def _start_afresh(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _start(rules, replace(life, history=History(), free_tries=0), event, now)


def _launched(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, deadline=now + rules.start_timeout_s), ()


def _ready(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, state=State.READY, deadline=None, ready_at=now, free_tries=0), ()


def _overdue(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, deadline=None), (Overdue(),)


def _drain(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, state=State.DRAINING, deadline=now + rules.drain_s), ()


def _recycle(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _leave(replace(life, after=After.START), rules.way_out, now, EndGeneration(recycled=True))


def _stop(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _leave(replace(life, after=After.STAY), rules.way_out, now, EndGeneration(recycled=False))


def _kill(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _leave(replace(life, after=After.STAY), (_KILL,), now, EndGeneration(recycled=False))


def _broke(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    assert isinstance(event, Broke)
    broken = replace(life, after=After.WEIGH, broke=event)
    return _leave(broken, _FIRMLY if event.firmly else _BROKEN, now)


def _already(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """A restart is asked for and under way, unless this is a stop for good."""
    if life.after is After.STAY:
        raise IllegalEvent("Recycle while stopping for good")
    return life, ()


def _stay(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return replace(life, after=After.STAY), ()


def _hurry(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return _leave(replace(life, after=After.STAY), (_KILL,), now)


def _next_rung(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    if life.rungs[1:]:
        return _leave(life, life.rungs[1:], now)
    return _leave(life, life.rungs, now, Force())


def _leave(life: Life, rungs: tuple[Rung, ...], now: float, *before: Effect) -> Step:
    first = rungs[0]
    going = replace(life, state=State.STOPPING, deadline=now + first.grace_s, rungs=rungs)
    return going, (*before, Signal(first.signal))


def _gone(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    """The process ended although nobody had asked for it."""
    assert isinstance(event, Exited)
    return _weigh(rules, life, event.retry, event.jitter, now)


def _gone_as_told(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    if life.after is After.START:
        return _start_afresh(rules, life, event, now)
    if life.after is After.WEIGH and life.broke is not None:
        return _weigh(rules, life, life.broke.retry, life.broke.jitter, now)
    return _halt(rules, life, event, now)


def _weigh(rules: LifecycleRules, life: Life, retry: Retry, jitter: float, now: float) -> Step:
    if retry is Retry.FREE and life.free_tries < FREE_TRIES:
        return _start(rules, replace(life, free_tries=life.free_tries + 1), Start(), now)
    if retry is Retry.NEVER:
        return _give_up(rules, life, now)
    served = 0.0 if life.ready_at is None else now - life.ready_at
    verdict = add_restart(rules.policy, life.history, now=now, served_s=served, jitter=jitter)
    life = replace(life, history=verdict.history)
    if verdict.delay_s is None:
        return _give_up(rules, life, now)
    if verdict.delay_s == 0.0:
        return _start(rules, life, Start(), now)
    return _rest(life, State.BACKOFF, now + verdict.delay_s), ()


def _give_up(rules: LifecycleRules, life: Life, now: float) -> Step:
    return _rest(life, State.FAILED, now + rules.cooldown_s), ()


def _halt(rules: LifecycleRules, life: Life, event: Event, now: float) -> Step:
    return Life(generation=life.generation), ()


def _rest(life: Life, state: State, deadline: float) -> Life:
    return Life(state, life.generation, deadline, history=life.history, free_tries=life.free_tries)


_Handler = Callable[[LifecycleRules, Life, Event, float], Step]

_TABLE: dict[tuple[State, type[Event]], _Handler] = {
    (State.STOPPED, Start): _start,
    (State.STOPPED, Stop): _ignore,
    (State.STOPPED, Kill): _ignore,
    (State.STARTING, Launched): _launched,
    (State.STARTING, FirstToken): _ready,
    (State.STARTING, Deadline): _overdue,
    (State.STARTING, Broke): _broke,
    (State.STARTING, Exited): _gone,
    (State.STARTING, Stop): _stop,
    (State.STARTING, Kill): _kill,
    (State.STARTING, Recycle): _recycle,  # nobody is served yet: nothing to drain
    (State.READY, Broke): _broke,
    (State.READY, Exited): _gone,
    (State.READY, Stop): _stop,
    (State.READY, Kill): _kill,
    (State.READY, Recycle): _drain,
    (State.DRAINING, Drained): _recycle,
    (State.DRAINING, Deadline): _recycle,
    (State.DRAINING, Broke): _broke,
    (State.DRAINING, Exited): _gone,
    (State.DRAINING, Stop): _stop,
    (State.DRAINING, Kill): _kill,
    (State.DRAINING, Recycle): _ignore,
    (State.STOPPING, Deadline): _next_rung,
    (State.STOPPING, Exited): _gone_as_told,
    (State.STOPPING, Stop): _stay,
    (State.STOPPING, Kill): _hurry,
    (State.STOPPING, Recycle): _already,
    (State.BACKOFF, Deadline): _start,
    (State.BACKOFF, Recycle): _start,
    (State.BACKOFF, Stop): _halt,
    (State.BACKOFF, Kill): _halt,
    (State.FAILED, Deadline): _start_afresh,
    (State.FAILED, Recycle): _start_afresh,
    (State.FAILED, Stop): _halt,
    (State.FAILED, Kill): _halt,
}
