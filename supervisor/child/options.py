"""What the supervisor needs to start a child: the program, its own options, and why it cannot start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.lifecycle.causes import Cause
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
class SupervisorOptions(LifecycleRules):
    """`[supervisor]` of proxy.toml: times in seconds, `max_age_h` in hours.

    `proxy_port`: shown to a second proxy that wants the same state folder.
    """

    state_dir: Path
    stall_s: float = 60.0
    canary_timeout_s: float = 10.0
    max_age_h: float = 0.0
    proxy_port: int | None = None


class CannotStart(Exception):
    """The child cannot be started, and a retry would not help, so the state becomes FAILED at once."""

    def __init__(self, cause: Cause, explanation: str) -> None:
        super().__init__(explanation)
        self.cause = cause
        self.explanation = explanation
