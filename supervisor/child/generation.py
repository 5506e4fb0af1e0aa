"""What the supervisor hands to the gateway: a generation of the child, its death, snapshots and changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from supervisor.child.process import Telemetry
from supervisor.lifecycle.causes import CAUSE_INFO, Cause
from supervisor.lifecycle.silence_limits import WorkPhase
from supervisor.lifecycle.state_machine import State


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one generation. `exit_code` and `signal` are None while the process has not exited.

    `advice`: empty until it has been worked out. `state`: the child's state at the time. `external`: a person
    or another program caused it, so no request is to blame. `active_bytes`: the most that MLX had active in
    the last seconds; None without telemetry. `unaccounted`: requests that the child has answered and that the
    gateway did not send: another program has found its port, so no request of ours is to blame.
    """

    generation: int
    cause: Cause
    explanation: str
    advice: str
    exit_code: int | None
    signal: int | None
    last_lines: tuple[str, ...]
    state: State
    external: bool = False
    active_bytes: int | None = None
    unaccounted: int = 0

    @property
    def memory(self) -> bool:
        """Whether lack of memory killed it, by all that is known."""
        return CAUSE_INFO[self.cause].memory and not self.external

    @property
    def planned(self) -> bool:
        """Whether the supervisor ended it, so that it is no crash."""
        return self.cause in (Cause.OWN_STOP, Cause.RECYCLED)


@dataclass(slots=True, eq=False)
class ChildWork:
    """One request in flight; the code that serves it keeps `phase` up to date."""

    phase: WorkPhase = WorkPhase.QUEUED


class Generation:
    """One life of the child that has become ready.

    `died` resolves with the Death the moment it is known. It is shared: wait for it with `asyncio.wait` or
    under `shield`, since `wait_for` would cancel it for all. Code that serves a request holds `busy()` and
    calls `progress()` for every read that brought bytes; the stall watch depends on both.

    Args:
        on_idle: called when the last request has ended.
        telemetry: returns the child's newest sample, None if there is none.
    """

    def __init__(
        self,
        number: int,
        port: int,
        on_idle: Callable[[], None],
        telemetry: Callable[[], Telemetry | None],
    ) -> None:
        self.number = number
        self.port = port
        self.died: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.work: set[ChildWork] = set()
        self.reads = 0
        self.posts = 0  # requests with a body that the gateway has sent to it
        self.silence_expected_until = 0.0
        self.telemetry = telemetry
        self._on_idle = on_idle
        self._dropped: dict[int, asyncio.Future[None]] = {}

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self.work)

    @contextmanager
    def busy(self) -> Iterator[ChildWork]:
        """Count one request as in flight at this generation."""
        work = ChildWork()
        self.work.add(work)
        try:
            yield work
        finally:
            self.work.remove(work)
            if not self.work:
                self._on_idle()

    def expect_silence(self, until: float) -> None:
        """Do not treat silence before this monotonic time as a stall: it was predicted."""
        self.silence_expected_until = max(self.silence_expected_until, until)

    def progress(self) -> None:
        """Note that bytes came from the child for some request."""
        self.reads += 1

    def drop_noticed(self, port: int) -> asyncio.Future[None]:
        """A future that resolves when the child notices the disconnect of local `port`; cancel it after use.

        The request does not end with that: the generation thread checks for it after its next step.
        """
        noticed = self._dropped[port] = asyncio.get_running_loop().create_future()
        noticed.add_done_callback(lambda _: self._dropped.pop(port, None))
        return noticed

    def connection_dropped(self, port: int) -> None:
        """Note that the child's output says it has dropped the connection from `port`."""
        noticed = self._dropped.get(port)
        if noticed is not None and not noticed.done():
            noticed.set_result(None)


@dataclass(frozen=True, slots=True)
class ChildSnapshot:
    """The supervisor's state for status and metrics.

    `since` and `ready_since` are wall-clock seconds. `cause` and its texts are those of the last unplanned
    death. `memory_bytes` is measured from outside. `unaccounted`: as in `Death`.
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
    unaccounted: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, with the `death` that it announces if there is one; each death is announced once."""

    before: State
    state: State
    generation: int
    death: Death | None = None


class NotReady(Exception):
    """The child will not be ready in time or not at all; `snapshot` says why."""

    def __init__(self, snapshot: ChildSnapshot) -> None:
        super().__init__(snapshot.explanation or f"the model server is {snapshot.state}")
        self.snapshot = snapshot
