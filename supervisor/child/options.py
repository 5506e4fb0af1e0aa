"""What the supervisor is told about starting a child: program, options, and why it cannot."""

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
    """How to run the child. `argv` are server flags only: the supervisor adds --host and --port.

    `command`: the server's own command, run as it is and without telemetry; () runs `child.py` with this
    interpreter, or its `mlx_lm.server` command when `telemetry` is off. `mlx_cache_limit`: bytes, needs
    telemetry (there is no flag for it). `plan`: what flags and limits follow from, for reports and advice.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    command: tuple[str, ...] = ()
    telemetry: bool = True
    mlx_cache_limit: int | None = None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Times in seconds, `max_age_h` in hours, see `[supervisor]` of proxy.toml.

    `proxy_port`: told to a second proxy that comes.
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
        """What the lifecycle needs of them."""
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
    """The child cannot be started at all, and trying again would not help: FAILED at once."""

    def __init__(self, cause: Cause, explanation: str) -> None:
        super().__init__(explanation)
        self.cause = cause
        self.explanation = explanation
