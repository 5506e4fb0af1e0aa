"""The only writer of the child's state: feeds `lifecycle.py`, carries out its effects, arms one timer.

Nothing awaits between reading the state and changing it: `_feed` is synchronous, and everything that
takes time (preparing, loading, probing) runs in tasks that end by feeding an event.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import MappingProxyType

import aiohttp

from supervisor import lifecycle, machine
from supervisor.command import command_line, environment, free_port
from supervisor.diagnosis import NATURES, Cause, Evidence, Finding, Symptom, diagnose, port_taken, suspicious
from supervisor.generation import (
    CannotStart,
    Change,
    Death,
    Generation,
    Launch,
    NotReady,
    Snapshot,
    SupervisorOptions,
)
from supervisor.lifecycle import IllegalEvent, Life, State
from supervisor.output import Transcript
from supervisor.policy import Policy, Retry
from supervisor.process import Child, Exit
from supervisor.records import Records
from supervisor.watch import Watch

__all__ = [
    "CannotStart",
    "Change",
    "Death",
    "Generation",
    "IllegalEvent",
    "Launch",
    "NotReady",
    "Snapshot",
    "Supervisor",
    "SupervisorOptions",
]

log = logging.getLogger("mlxguard.supervisor")

_ALIVE = (State.STARTING, State.READY, State.DRAINING)


class Supervisor:
    """Keeps one child running. All methods are for the event loop's thread.

    `prepare` is asked before each start for what to run; it may take long (a download) and raises
    CannotStart if there is nothing that could be run. `random` gives the jitter, in [0, 1).
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Launch]],
        options: SupervisorOptions,
        *,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._prepare = prepare
        self._options = options
        self._random = random
        self._rules = _rules(options)
        self._records = Records(options.state_dir)
        self._callbacks: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()
        self._life = Life()
        self._since = time.time()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: Counter[Cause] = Counter()
        self._last: Death | None = None  # of a kind that was no plan of ours
        self._untold: Death | None = None  # subscribers have not heard of it
        self._session: aiohttp.ClientSession | None = None
        self._clear()

    def _clear(self) -> None:
        """Forget the last generation."""
        self._launching: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._examining: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._watch: Watch | None = None
        self._port: int | None = None
        self._generation: Generation | None = None
        self._death: Death | None = None  # of this generation, once known
        self._launched_at = self._ready_since = 0.0
        self._memory: tuple[float, int | None] = (0.0, None)
        self._transcript = Transcript(self._on_line)

    # For the gateway

    async def start(self) -> None:
        """Take the state folder and begin to load; returns at once.

        Raises:
            records.AlreadyRunning: another proxy has the state folder.
            OSError: the state folder cannot be made.
        """
        self._records.open(self._options.proxy_port)
        left = self._records.end_left_over()
        if left is not None:
            log.warning("left_over_child_ended", extra={"pid": left})
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self._feed(lifecycle.Start())

    async def stop(self) -> None:
        """End the child: SIGINT, SIGTERM, SIGKILL to its group, each with its grace. Draining came before."""
        self._feed(lifecycle.Stop())
        while self._life.state is not State.STOPPED:
            await self._changed.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
            self._records.close()

    def stop_now(self) -> None:
        """SIGKILL the child's group; a `stop` that is waiting returns once it is gone."""
        self._feed(lifecycle.Kill())

    async def ready(self, timeout_s: float) -> Generation:
        """The generation that serves, waiting for it.

        Raises:
            NotReady: it failed for good or is stopped (at once), or `timeout_s` is over.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._hopeless():
                    if self._life.state is State.READY and self._generation is not None:
                        return self._generation
                    await self._changed.wait()
        raise NotReady(self.snapshot())

    async def judge(self, generation: Generation) -> Death | None:
        """An answer of `generation` broke: its death if it is dead, None if the child lives."""
        if not generation.died.done() and generation is self._generation:
            await asyncio.shield(self._examine())
        return generation.died.result() if generation.died.done() else None

    async def recycle(self, reason: str) -> None:
        """Restart as planned: drain, stop in order, start. Also the way out of FAILED. Returns at once.

        Raises:
            IllegalEvent: the supervisor is stopped or stopping.
        """
        log.info("recycle", extra={"reason": reason, "generation": self._life.generation})
        self._feed(lifecycle.Recycle())
        self._on_idle()

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call back at each change of state, in the loop's thread."""
        self._callbacks.append(callback)

    def snapshot(self) -> Snapshot:
        life, last, child = self._life, self._last, self._child
        return Snapshot(
            state=life.state,
            generation=life.generation,
            cause=last.cause if last else None,
            explanation=last.explanation if last else None,
            advice=last.advice if last else None,
            pid=child.pid if child else None,
            port=self._port,
            since=self._since,
            ready_since=self._ready_since or None,
            restarts=max(0, life.generation - 1),
            restarts_by_cause=MappingProxyType(dict(self._ended)),
            next_restart_s=self._next_restart_s(),
            in_flight=self._generation.in_flight if self._generation else 0,
            telemetry=child.telemetry if child else None,
            memory_bytes=self._memory_bytes(),
            log_tail=self._transcript.lines,
        )

    def _next_restart_s(self) -> float | None:
        if self._life.state not in (State.BACKOFF, State.FAILED) or self._life.deadline is None:
            return None
        return max(0.0, self._life.deadline - time.monotonic())

    def _memory_bytes(self) -> int | None:
        """Measured at most once a second: it walks the process table."""
        if self._child is None or self._child.pid is None:
            return None
        if time.monotonic() - self._memory[0] > 1.0:
            self._memory = time.monotonic(), machine.memory_of(self._child.pid)
        return self._memory[1]

    def _hopeless(self) -> bool:
        life = self._life
        leaving = life.state is State.STOPPING and life.after is lifecycle.After.STAY
        return leaving or life.state in (State.FAILED, State.STOPPED)

    # Events in, effects out

    def _feed(self, event: lifecycle.Event) -> None:
        before, now = self._life, time.monotonic()
        self._life, effects = lifecycle.handle(self._rules, before, event, now)
        if self._life.state not in _ALIVE and self._watching is not None:
            self._watching.cancel()
        for effect in effects:
            self._carry_out(effect)
        if self._life.deadline != before.deadline:
            self._rearm()
        if self._life.state is not before.state:
            self._announce(before.state)

    def _carry_out(self, effect: lifecycle.Effect) -> None:
        match effect:
            case lifecycle.Launch():
                self._begin()
            case lifecycle.Signal(number):
                self._signal(number)
            case lifecycle.Cut(recycled):
                self._die(Symptom.RECYCLED if recycled else Symptom.STOPPED)
            case lifecycle.Force():
                if self._child is not None:
                    self._child.kill()
            case lifecycle.Overdue():
                broke = functools.partial(self._broke, self._life.generation, firmly=True)
                asyncio.get_running_loop().call_soon(broke, Symptom.START_TIMEOUT)

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._life.deadline is not None:
            delay = max(0.0, self._life.deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._feed, lifecycle.Deadline())

    def _announce(self, before: State) -> None:
        life = self._life
        self._since = time.time()
        level = logging.ERROR if life.state is State.FAILED else logging.INFO
        extra = {"before": before, "state": life.state, "generation": life.generation}
        log.log(level, "child_state", extra=extra)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        death, self._untold = self._untold, None
        for callback in self._callbacks:
            callback(Change(before, life.state, life.generation, death))

    def _spawn_task(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", extra={"task": task.get_name()}, exc_info=error)

    # Starting

    def _begin(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._clear()
        self._launching = self._spawn_task(self._launch(), "launch")
        self._launching.add_done_callback(self._on_launched)

    async def _launch(self) -> None:
        launch = await self._prepare()
        port = free_port()
        child = Child(self._transcript.feed)
        await child.spawn(lambda fd: command_line(launch, port, fd), environment(launch))
        assert self._session is not None
        self._child, self._port, self._launched_at = child, port, time.monotonic()
        broke = functools.partial(self._broke, self._life.generation)
        self._watch = Watch(child, self._session, port, self._options.canary_timeout_s, broke)
        child.exited.add_done_callback(self._on_exit)
        log.info("child_started", extra={"generation": self._life.generation, "port": port})
        if launch.telemetry and launch.command:
            log.warning("telemetry_off", extra={"reason": "[upstream] command is run as it is"})
        self._feed(lifecycle.Launched())
        self._watching = self._spawn_task(self._become_ready(child, self._watch), "watch")

    def _on_launched(self, task: asyncio.Task[None]) -> None:
        """Nothing was started: say why, and that nothing runs."""
        if task.cancelled():
            self._feed(lifecycle.Exited())
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, CannotStart):
            finding = Finding(error.cause, error.explanation, NATURES[error.cause].advice)
            retry = Retry.NEVER
        else:
            finding = Finding(
                Cause.SPAWN_FAILED, f"Starting failed: {error}", NATURES[Cause.SPAWN_FAILED].advice
            )
            retry = Retry.COUNTED
        if self._life.state is State.STARTING:
            self._record(Evidence(Symptom.EXIT), finding)
        self._feed(lifecycle.Exited(retry, self._random()))

    async def _become_ready(self, child: Child, watch: Watch) -> None:
        await child.born
        if child.pid is not None:
            await asyncio.to_thread(self._records.note_child, child.pid)
        if not await watch.first_token():
            return
        number, port = self._life.generation, self._port
        assert port is not None
        self._generation = Generation(number, port, self._on_idle)
        self._ready_since = time.time()
        load_s = round(time.monotonic() - self._launched_at, 3)
        log.info("child_ready", extra={"generation": number, "pid": child.pid, "load_s": load_s})
        self._feed(lifecycle.FirstToken())
        await watch.serve(self._generation, self._options.stall_s)

    # While it lives

    def _on_line(self, line: str) -> None:
        if self._life.state is State.STARTING and port_taken(line):
            self._broke(self._life.generation, Symptom.PORT_TAKEN, firmly=True)
        elif suspicious(line) and self._watch is not None and self._life.state in _ALIVE:
            self._examine()

    def _examine(self) -> asyncio.Task[None]:
        """One examination at a time, for all whose answers broke together."""
        assert self._watch is not None
        if self._examining is None or self._examining.done():
            self._examining = self._spawn_task(self._watch.examine(self._generation), "examine")
        return self._examining

    def _on_idle(self) -> None:
        generation = self._generation
        if self._life.state is State.DRAINING and (generation is None or not generation.in_flight):
            self._feed(lifecycle.Drained())

    def _signal(self, number: int) -> None:
        if self._child is None:
            if self._launching is not None:
                self._launching.cancel()
            return
        self._child.signal(number)

    # Deaths

    def _broke(self, number: int, symptom: Symptom, *, firmly: bool = False, note: str = "") -> None:
        """Generation `number` will not serve again, though its process lives."""
        if number != self._life.generation or self._death is not None or self._life.state not in _ALIVE:
            return
        death = self._die(symptom, note=note)
        self._feed(lifecycle.Broke(NATURES[death.cause].retry, self._random(), firmly))

    def _on_exit(self, done: asyncio.Future[Exit]) -> None:
        exit_ = done.result()
        self._records.forget_child()
        retry = Retry.COUNTED
        if self._death is None:
            retry = NATURES[self._die(Symptom.EXIT, exit_).cause].retry
        if self._child is not None:
            self._spawn_task(self._child.wait_closed(), "close")
        self._child = None
        self._feed(lifecycle.Exited(retry, self._random()))

    def _die(self, symptom: Symptom, exit_: Exit | None = None, note: str = "") -> Death:
        exit_ = exit_ or Exit(None, None)
        lines = (*self._transcript.lines, *((note,) if note else ()))
        evidence = Evidence(symptom, exit_.code, exit_.signal, lines)
        return self._record(evidence, diagnose(evidence, loading=self._generation is None))

    def _record(self, evidence: Evidence, finding: Finding) -> Death:
        """Make the death known: to the relay first, then to the log and the state folder."""
        life = self._life
        death = Death(
            life.generation,
            finding.cause,
            finding.explanation,
            finding.advice,
            evidence.exit_code,
            evidence.signal,
            evidence.last_lines,
            life.state,
        )
        self._death = self._untold = death
        if self._generation is not None and not self._generation.died.done():
            self._generation.died.set_result(death)
        if death.cause is not Cause.OWN_STOP:
            self._ended[death.cause] += 1
        if not death.own:
            self._last = death
            self._report(death, evidence.symptom)
        return death

    def _report(self, death: Death, symptom: Symptom) -> None:
        what = {
            "generation": death.generation,
            "cause": death.cause,
            "symptom": symptom,
            "explanation": death.explanation,
            "advice": death.advice,
            "exit_code": death.exit_code,
            "signal": death.signal,
            "state": death.state,
        }
        log.error("child_died", extra=what)
        report = {**what, "time": time.time(), "last_lines": death.last_lines}
        self._spawn_task(asyncio.to_thread(self._write_report, report), "crash-report")

    def _write_report(self, report: dict[str, object]) -> None:
        self._records.write_crash(report)


def _rules(options: SupervisorOptions) -> lifecycle.Rules:
    return lifecycle.Rules(
        policy=Policy(
            options.max_restarts, options.restart_window_s, options.backoff_base_s, options.backoff_max_s
        ),
        start_timeout_s=options.start_timeout_s,
        drain_s=options.drain_s,
        sigint_grace_s=options.sigint_grace_s,
        sigterm_grace_s=options.sigterm_grace_s,
        cooldown_s=options.cooldown_s,
    )
