"""What the gateway is handed of the supervisor: one generation of the child, and pictures of its state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor.causes import NATURES, Cause
from supervisor.lifecycle import Rules, State
from supervisor.plan import Plan
from supervisor.policy import Policy
from supervisor.process import Telemetry
from supervisor.silence import Phase


@dataclass(frozen=True, slots=True)
class Launch:
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
    def rules(self) -> Rules:
        """What the lifecycle needs of them."""
        return Rules(
            policy=Policy(self.max_restarts, self.restart_window_s, self.backoff_base_s, self.backoff_max_s),
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


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one generation. Exit fields are None while it has not exited.

    `advice`: empty until it is worked out. `state`: what it was doing. `outside`: somebody did this to it,
    whatever it was working on. `held`: the most that MLX had active in the last seconds, in bytes; None
    without telemetry.
    """

    generation: int
    cause: Cause
    explanation: str
    advice: str
    exit_code: int | None
    signal: int | None
    last_lines: tuple[str, ...]
    state: State
    outside: bool = False
    held: int | None = None

    @property
    def memory(self) -> bool:
        """Memory killed it, as far as one can tell."""
        return NATURES[self.cause].memory and not self.outside

    @property
    def own(self) -> bool:
        """The supervisor ended it: no crash."""
        return self.cause in (Cause.OWN_STOP, Cause.RECYCLED)


@dataclass(slots=True, eq=False)
class Work:
    """One request at the child; whoever serves it says what the child is at."""

    phase: Phase = Phase.QUEUED


class Generation:
    """One life of the child that has become ready.

    `died` resolves with the Death the moment it is known. It is shared: wait for it with `asyncio.wait` or
    under `shield`, since `wait_for` would cancel it for everybody. Whoever serves a request holds `busy()`
    and calls `progress()` for every read that brought bytes; a stall is judged by both.

    Args:
        telemetry: the child's newest sample; gives None where there is none.
    """

    def __init__(
        self,
        number: int,
        port: int,
        on_idle: Callable[[], None],
        telemetry: Callable[[], Telemetry | None] = lambda: None,
    ) -> None:
        self.number = number
        self.port = port
        self.died: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.works: set[Work] = set()
        self.reads = 0
        self.silent_until = 0.0
        self.telemetry = telemetry
        self._on_idle = on_idle
        self._given_up: dict[int, asyncio.Future[None]] = {}

    @property
    def in_flight(self) -> int:
        """Requests that it is asked now."""
        return len(self.works)

    @contextmanager
    def busy(self) -> Iterator[Work]:
        """A request is being served by this generation."""
        work = Work()
        self.works.add(work)
        try:
            yield work
        finally:
            self.works.remove(work)
            if not self.works:
                self._on_idle()

    def expect_silence(self, until: float) -> None:
        """It was foreseen that nothing will be seen of it until then, on the monotonic clock."""
        self.silent_until = max(self.silent_until, until)

    def progress(self) -> None:
        """Bytes came from the child for some request."""
        self.reads += 1

    def giving_up(self, port: int) -> asyncio.Future[None]:
        """Resolves when the child has noticed that its client on local `port` has left. Cancel it when done.

        Noticing is not yet the end: the generation thread looks for it after its next step.
        """
        noticed = self._given_up[port] = asyncio.get_running_loop().create_future()
        noticed.add_done_callback(lambda _: self._given_up.pop(port, None))
        return noticed

    def gave_up(self, port: int) -> None:
        """The child's output says that it has given up the connection from `port`."""
        noticed = self._given_up.get(port)
        if noticed is not None and not noticed.done():
            noticed.set_result(None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The supervisor's state for status and metrics.

    `since` and `ready_since` are wall-clock seconds; `cause` and its texts are those of the last death of
    a kind that is no plan of ours; `memory_bytes` is measured from outside.
    """

    state: State
    generation: int
    cause: Cause | None
    explanation: str | None
    advice: str | None
    pid: int | None
    port: int | None
    since: float
    ready_since: float | None
    restarts: int
    restarts_by_cause: Mapping[Cause, int]
    next_restart_s: float | None
    in_flight: int
    telemetry: Telemetry | None
    memory_bytes: int | None
    log_tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state; `death` if a generation's end was learned with it. Each is told once."""

    before: State
    state: State
    generation: int
    death: Death | None = None


class NotReady(Exception):
    """The child will not be ready in time, or not at all; `snapshot` says why."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot.explanation or f"the model server is {snapshot.state}")
        self.snapshot = snapshot
