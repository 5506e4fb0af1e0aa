"""What the supervisor needs to start a child: the program, its own options, and why it cannot start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.restart_policy import RestartPolicy
from supervisor.lifecycle.state_machine import LifecycleRules
from supervisor.memory_model.plan import Plan


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """How to run the child. `argv` has server flags only: the supervisor adds --host and --port.

    `command`: a server command of the user's, run unchanged and without telemetry; () runs
    `server_wrapper.py` with this interpreter, or its `mlx_lm.server` command if `telemetry` is off.
    `mlx_cache_limit`: bytes; needs telemetry, since there is no flag for it. `plan`: the source of flags and
    limits, for reports and advice.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    command: tuple[str, ...] = ()
    telemetry: bool = True
    mlx_cache_limit: int | None = None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Times in seconds, `max_age_h` in hours; see `[supervisor]` in proxy.toml.

    `proxy_port`: shown to a second proxy that wants the same state folder.
    """

    state_dir: Path
    start_timeout_s: float = 600.0
    stall_s: float = 60.0
    canary_timeout_s: float = 10.0
    max_restarts: int = 5
    restart_window_s: float = 300.0
    backoff_base_s: float = 0.5
    backoff_max_s: float = 30.0
    cooldown_s: float = 600.0
    drain_s: float = 30.0
    sigint_grace_s: float = 10.0
    sigterm_grace_s: float = 5.0
    max_age_h: float = 0.0
    proxy_port: int | None = None

    @property
    def rules(self) -> LifecycleRules:
        """The options that the state machine needs."""
        return LifecycleRules(
            policy=RestartPolicy(
                self.max_restarts, self.restart_window_s, self.backoff_base_s, self.backoff_max_s
            ),
            start_timeout_s=self.start_timeout_s,
            drain_s=self.drain_s,
            sigint_grace_s=self.sigint_grace_s,
            sigterm_grace_s=self.sigterm_grace_s,
            cooldown_s=self.cooldown_s,
        )


class CannotStart(Exception):
    """The child cannot be started, and a retry would not help, so the state becomes FAILED at once."""

    def __init__(self, cause: Cause, explanation: str) -> None:
        super().__init__(explanation)
        self.cause = cause
        self.explanation = explanation
