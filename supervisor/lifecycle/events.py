"""Pure. What happens to the child (events) and what must be done about it (effects), for `state_machine.py`.

Both are plain values, so that a life can be recorded, compared and tested without a process.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.lifecycle.restart_policy import Retry

# Events


@dataclass(frozen=True, slots=True)
class Start:
    """The proxy wants the child to run."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The process was started. The time allowed for loading runs from here, after any model download."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The child has produced one real token."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The child will never serve again, but its process lives: dead thread, wedge, failed load."""

    retry: Retry
    jitter: float
    ignores_sigint: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone. `retry` and `jitter` count only if it had not been told to end."""

    retry: Retry = Retry.COUNTED
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """The proxy stops, and its requests have been drained."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The proxy stops at once."""


@dataclass(frozen=True, slots=True)
class Recycle:
    """A planned restart, or an immediate start out of FAILED or BACKOFF."""


@dataclass(frozen=True, slots=True)
class Drained:
    """No request is in flight any more."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """`Life.deadline` has passed."""


Event = Start | Launched | FirstToken | Broken | Exited | Stop | Kill | Recycle | Drained | Deadline


# Effects


@dataclass(frozen=True, slots=True)
class Launch:
    """Prepare and start this generation; Launched follows, and finally Exited."""

    generation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the child's process group. Without a process: give up starting one, and report Exited."""

    number: int


@dataclass(frozen=True, slots=True)
class EndGeneration:
    """The supervisor ends the generation: tell the requests that still wait for responses."""

    recycled: bool


@dataclass(frozen=True, slots=True)
class Overdue:
    """The child did not become ready in time: find out why, then report Broken."""


@dataclass(frozen=True, slots=True)
class Force:
    """The keeper did not manage to kill the child: do it without the keeper."""


Effect = Launch | Signal | EndGeneration | Overdue | Force
