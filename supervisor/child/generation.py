"""What the gateway is handed of the supervisor: one generation of the child, and pictures of its state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from supervisor.child.process import Telemetry
from supervisor.lifecycle.causes import NATURES, Cause
from supervisor.lifecycle.silence_limits import WorkPhase
from supervisor.lifecycle.state_machine import State


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
class ChildWork:
    """One request at the child; whoever serves it says what the child is at."""

    phase: WorkPhase = WorkPhase.QUEUED


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
        self.works: set[ChildWork] = set()
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
    def busy(self) -> Iterator[ChildWork]:
        """A request is being served by this generation."""
        work = ChildWork()
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
class ChildSnapshot:
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

    def __init__(self, snapshot: ChildSnapshot) -> None:
        super().__init__(snapshot.explanation or f"the model server is {snapshot.state}")
        self.snapshot = snapshot
