"""Pure. When to restart: OTP's restart intensity, with exponential back-off and full jitter.

Modelled on `add_restart` of Erlang/OTP's supervisor: remember the restarts within the window, and give up
when there are more than `max_restarts`. OTP restarts at once every time; loading a model costs seconds and
gigabytes, so here only the first restart of a window is immediate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """Whether to start again after a death."""

    COUNTED = "counted"  # a crash, which counts against the restart intensity
    FREE = "free"  # no fault of the child, and a retry helps: a port that was taken in the meantime
    NEVER = "never"  # the same would happen again: a bad model, an unsupported flag


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Limits of restarting; times in seconds."""

    max_restarts: int = 5
    restart_window_s: float = 300.0
    backoff_base_s: float = 0.5
    backoff_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class History:
    """Monotonic times of the restarts in the window, and how many followed in close succession."""

    restarts: tuple[float, ...] = ()
    streak: int = 0


def add_restart(
    policy: RestartPolicy, history: History, *, now: float, served_s: float, jitter: float
) -> tuple[History, float | None]:
    """Decide when to restart after one crash.

    Returns the new history, and the seconds until the restart or None if the intensity is exceeded.

    Args:
        served_s: how long the generation served before it died. One that served for longer than the longest
            back-off was stable, so its crash starts a new streak.
        jitter: in [0, 1), scales the whole delay ("full jitter"), so that several supervisors on one machine
            do not load their models at the same time.
    """
    recent = (*(at for at in history.restarts if now - at < policy.restart_window_s), now)
    if len(recent) > policy.max_restarts:
        return History(recent[-policy.max_restarts - 1 :], history.streak), None
    streak = 0 if served_s > policy.backoff_max_s or len(recent) == 1 else history.streak
    return History(recent, streak + 1), backoff(policy, streak, jitter)


def backoff(policy: RestartPolicy, streak: int, jitter: float) -> float:
    """Seconds to wait after `streak` restarts in a row: 0 for the first, then up to base * 2^n."""
    if streak == 0:
        return 0.0
    doublings = min(streak - 1, 32)  # enough for any limit, without overflow
    return min(policy.backoff_max_s, policy.backoff_base_s * 2.0**doublings) * jitter
