"""What happens to the child (events) and what is to be done about it (effects), for `lifecycle.py` (pure).

Both are plain values, so that a life can be written down, compared and tested without a process.
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
    """The process was started; the time allowed for loading runs from here, not from a model download."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The child answered with one real token."""


@dataclass(frozen=True, slots=True)
class Broke:
    """The child will never serve again, but its process lives: dead thread, wedge, failed load."""

    retry: Retry
    jitter: float
    firmly: bool = False  # it will not react to SIGINT


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone. `retry` and `jitter` count only if nobody had told it to go."""

    retry: Retry = Retry.COUNTED
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """The proxy stops, its requests are drained."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The proxy stops at once."""


@dataclass(frozen=True, slots=True)
class Recycle:
    """A planned restart, or a try out of FAILED or BACKOFF."""


@dataclass(frozen=True, slots=True)
class Drained:
    """No request is being served any more."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """`Life.deadline` has passed."""


Event = Start | Launched | FirstToken | Broke | Exited | Stop | Kill | Recycle | Drained | Deadline


# Effects


@dataclass(frozen=True, slots=True)
class Launch:
    """Prepare and start this generation; answer with Launched, then Exited some day."""

    generation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send to the child's process group. Without a process: give up starting one, and say Exited."""

    number: int


@dataclass(frozen=True, slots=True)
class EndGeneration:
    """The generation ends by our will: tell whoever still waits for its answers."""

    recycled: bool


@dataclass(frozen=True, slots=True)
class Overdue:
    """The child did not become ready in time: find out why, then say Broke."""


@dataclass(frozen=True, slots=True)
class Force:
    """The keeper has not managed to kill the child: do it without the keeper."""


Effect = Launch | Signal | EndGeneration | Overdue | Force
