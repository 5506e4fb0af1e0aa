"""When to restart: OTP's restart intensity, with exponential back-off and full jitter (pure).

The shape is `add_restart` of Erlang/OTP's supervisor: remember the restarts of the window, and give up
when there are more than `max_restarts`. OTP restarts at once each time; a model server costs seconds of
loading and gigabytes, so only the first restart of a window does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """What a death says about trying again."""

    COUNTED = "counted"  # a crash: it counts against the intensity
    FREE = "free"  # nobody's fault and cured by trying again, as a port that was taken meanwhile
    NEVER = "never"  # the same would happen again: a bad model, an unsupported flag


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Limits of restarting; times in seconds."""

    max_restarts: int
    window_s: float
    base_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class History:
    """Times (monotonic, seconds) of the restarts in the window, and how many followed each other closely."""

    restarts: tuple[float, ...] = ()
    streak: int = 0


@dataclass(frozen=True, slots=True)
class RestartDecision:
    """`delay_s` until the restart; None when the intensity is exceeded."""

    history: History
    delay_s: float | None


def add_restart(
    policy: RestartPolicy, history: History, *, now: float, served_s: float, jitter: float
) -> RestartDecision:
    """Decide about one crash.

    `served_s` is how long the generation served before it died. One that served for longer than the
    longest back-off was stable, and its crash starts a new streak. `jitter` in [0, 1) scales the whole
    wait ("full jitter"), so that many supervisors on one machine do not load their models together.
    """
    recent = (*(at for at in history.restarts if now - at < policy.window_s), now)
    if len(recent) > policy.max_restarts:
        return RestartDecision(History(recent[-policy.max_restarts - 1 :], history.streak), None)
    streak = 0 if served_s > policy.max_s or len(recent) == 1 else history.streak
    return RestartDecision(History(recent, streak + 1), backoff(policy, streak, jitter))


def backoff(policy: RestartPolicy, streak: int, jitter: float) -> float:
    """Seconds to wait after `streak` earlier restarts in a row: none at first, then up to base * 2^n."""
    if streak == 0:
        return 0.0
    doublings = min(streak - 1, 32)  # enough for any limit, and no overflow
    return min(policy.max_s, policy.base_s * 2.0**doublings) * jitter
