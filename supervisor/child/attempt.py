"""One run of the child process, from launch to exit. Reports events; the supervisor decides."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import aiohttp

from supervisor.aio import Tasks
from supervisor.child.command import command_line, environment, free_port
from supervisor.child.generation import Death, Generation
from supervisor.child.options import LaunchSpec, SupervisorOptions
from supervisor.child.output import Transcript, dropped_connection, is_answered_post
from supervisor.child.process import Child, Exit
from supervisor.child.watch import Watch
from supervisor.lifecycle import memory_history
from supervisor.lifecycle.advice import DeathFacts
from supervisor.lifecycle.causes import Symptom
from supervisor.lifecycle.diagnosis import (
    Diagnosis,
    Evidence,
    MachinePressure,
    diagnose,
    port_taken,
    suspicious,
)
from supervisor.lifecycle.in_flight import InFlight
from supervisor.lifecycle.memory_history import MemoryHistory, MemorySample
from supervisor.lifecycle.state_machine import State
from supervisor.machine import system
from supervisor.machine.versions import versions

log = logging.getLogger("mlxguard.supervisor")

#: The members of the child's process group are looked up once in this many memory samples.
_MEMBERS_EVERY = 20


class Listener(Protocol):
    """Receives the events. Each names its attempt, since a late one may concern an attempt that is over."""

    def on_first_token(self, attempt: Attempt) -> None: ...

    def on_idle(self, attempt: Attempt) -> None: ...

    def on_broken(self, attempt: Attempt, symptom: Symptom, note: str) -> None: ...

    def on_exit(self, attempt: Attempt, exit_: Exit) -> None: ...


class Attempt:
    """The running child and all that is known about it. `generation` exists from the first token on."""

    def __init__(self, number: int, options: SupervisorOptions, listener: Listener, tasks: Tasks) -> None:
        self.number = number
        self.child: Child | None = None
        self.port: int | None = None
        self.generation: Generation | None = None
        self.ready_since: float | None = None  # wall clock
        self.death: Death | None = None
        self.transcript = Transcript(self._on_line)
        self.history = MemoryHistory()
        self.free_before: int | None = None  # bytes, before it was started
        self.unaccounted = 0  # requests that the child has answered and that this process did not send
        self._posts_answered = 0
        self._options = options
        self._listener = listener
        self._tasks = tasks
        self._watch: Watch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._examining: asyncio.Task[None] | None = None
        self._launch: LaunchSpec | None = None
        self._launched_at = 0.0
        self._kills_before: int | None = None
        self._footprint: int | None = None
        self._card_total: int | None = None  # with a GPU that has memory of its own

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    async def launch(self, launch: LaunchSpec, session: aiohttp.ClientSession) -> None:
        """Start the process; there is no further wait once it has started. Raises OSError."""
        port = free_port()
        system.total_memory()  # known from now on, also when nothing can be read any more
        self._launch, self.free_before = launch, system.free_memory()
        self._kills_before = system.system_kills()
        child = Child(self.transcript.feed)
        await child.spawn(lambda fd: command_line(launch, port, fd), environment(launch))
        self.child, self.port, self._launched_at = child, port, time.monotonic()
        on_broken = functools.partial(self._listener.on_broken, self)
        self._watch = Watch(child, session, port, self._options.canary_timeout_s, on_broken)
        child.exited.add_done_callback(self._on_exit)
        log.info("child_started", extra={"generation": self.number, "port": port})
        if launch.telemetry and launch.command:
            log.warning("telemetry_off", extra={"reason": "[upstream] command is run unchanged"})

    def watch(self, on_pid: Callable[[int], None]) -> None:
        """Watch the child from now on; `on_pid` is called in a thread."""
        assert self.child is not None
        assert self._watch is not None
        self._watching = self._tasks.start(
            self._watch_child(self.child, self._watch, on_pid), "watch", self._unwatched
        )
        self._tasks.start(self._sample_memory(self.child), "memory", self._unwatched)

    def _unwatched(self, error: BaseException) -> None:
        """Replace a child whose watch has failed: its end, or its memory, would go unnoticed."""
        note = f"mlxguard: the watch failed: {type(error).__name__}: {error}"
        self._listener.on_broken(self, Symptom.UNWATCHED, note)

    def stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch_child(self, child: Child, watch: Watch, on_pid: Callable[[int], None]) -> None:
        await asyncio.wait((child.born,))  # shared: to await it directly would cancel it for all
        if child.pid is not None:
            await asyncio.to_thread(on_pid, child.pid)
        if not await watch.first_token():
            return
        assert self.port is not None
        on_idle = functools.partial(self._listener.on_idle, self)
        generation = Generation(self.number, self.port, on_idle, lambda: child.telemetry)
        self.generation, self.ready_since = generation, time.time()
        load_s = round(time.monotonic() - self._launched_at, 3)
        log.info("child_ready", extra={"generation": self.number, "pid": child.pid, "load_s": load_s})
        self._listener.on_first_token(self)
        await watch.serve(generation, self._options.stall_s)

    def examine(self) -> asyncio.Task[None]:
        """Find out whether the child lives; concurrent callers share one examination."""
        assert self._watch is not None
        if self._examining is None or self._examining.done():
            examination = self._watch.examine(self.generation)
            self._examining = self._tasks.start(examination, "examine", self._unwatched)
        return self._examining

    def die(self, symptom: Symptom, state: State, exit_: Exit | None = None, note: str = "") -> Death:
        """Record the end: find its cause and tell the requests that wait for a response."""
        exit_ = exit_ or Exit(None, None)
        if self.child is not None:  # memory rises fastest right at the end, between two samples
            self.history.add(self._sample(self.child))
        lines = (*self.transcript.lines, *((note,) if note else ()))
        stopped = symptom is Symptom.WEDGE and self.pid is not None and system.is_stopped(self.pid)
        evidence = Evidence(symptom, exit_.code, exit_.signal, lines, self._pressure(), stopped)
        return self.die_of(diagnose(evidence, loading=self.generation is None), evidence, state)

    def die_of(self, diagnosis: Diagnosis, evidence: Evidence, state: State) -> Death:
        """As `die`, with a known cause."""
        self.death = Death(
            self.number,
            diagnosis.cause,
            diagnosis.explanation,
            "",  # advice also needs what the gateway knows: see crash_reports.py
            evidence.exit_code,
            evidence.signal,
            evidence.last_lines,
            state,
            diagnosis.external,
            self.history.recent_active(time.monotonic()),
            self.unaccounted,
        )
        if self.generation is not None and not self.generation.died.done():
            self.generation.died.set_result(self.death)
        return self.death

    def facts(self, in_flight: Sequence[InFlight]) -> DeathFacts:
        """What advice can be worked out from."""
        launch = self._launch
        return DeathFacts(
            in_flight,
            self.history.peak(),
            self._card_total or system.total_memory(),
            launch.argv if launch else (),
            launch.command if launch else (),
            self.transcript.lines,
            self._options.start_timeout_s,
            self._options.stall_s,
            self.history.other_programs(self._card_total) if self._card_total else None,
            self.death.active_bytes if self.death else None,
            self.history.other_growth(self.free_before),
            launch.plan if launch else None,
            versions(),
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )

    def description(self) -> dict[str, Any]:
        """The child in a crash report: how it was run, for how long, and its memory."""
        now, launch = time.monotonic(), self._launch
        return {
            "flags": launch.argv if launch else (),
            "command": launch.command if launch else (),
            "telemetry": launch.telemetry if launch else None,
            "plan": launch.plan.summary() if launch and launch.plan else None,
            "ran_s": round(now - self._launched_at, 3) if launch else None,
            "ready_since": self.ready_since,
            "free_before": self.free_before,
            "total_memory": system.total_memory(),
            "card_total": self._card_total,
            "memory": self.history.table(now),
        }

    def _pressure(self) -> MachinePressure:
        before, kills = self._kills_before, system.system_kills()
        since = kills - before if kills is not None and before is not None else None
        return self.history.pressure(time.monotonic(), system.total_memory(), since)

    async def _sample_memory(self, child: Child) -> None:
        await asyncio.wait((child.born,))
        for number in itertools.count():
            if child.exited.done():
                return
            if child.pid is not None:
                if number % _MEMBERS_EVERY == 0:  # walks the process table, which takes 10 ms and more
                    child.members = await asyncio.to_thread(system.group, child.pid)
                self._footprint = system.memory_of_members(child.pid, child.members)
            self.history.add(self._sample(child))
            await asyncio.wait((child.exited,), timeout=memory_history.INTERVAL_S)

    def _sample(self, child: Child) -> MemorySample:
        now, free, inside = time.monotonic(), system.free_memory(), child.telemetry
        if inside is None:
            return MemorySample(now, free, self.memory_bytes())
        self._card_total = inside.card_total or self._card_total
        sizes = inside.active_bytes, inside.peak_bytes, inside.cache_bytes, inside.card_free
        return MemorySample(now, free, self.memory_bytes(), *sizes)

    def last_footprint(self) -> int:
        """The child's memory in bytes as last measured from outside."""
        last = self.history.last()
        return (last.footprint or 0) if last else 0

    def memory_bytes(self) -> int | None:
        """The child's memory in bytes, measured from outside at most a second ago; None without a child."""
        if self._footprint is None and self.pid is not None:
            self._footprint = system.memory_of(self.pid)
        return None if self.pid is None else self._footprint

    def _on_answered_post(self) -> None:
        """Compare what the child has answered with what was sent to it; its port is open to this machine."""
        self._posts_answered += 1
        sent = (self._watch.posts if self._watch else 0) + (self.generation.posts if self.generation else 0)
        if self._posts_answered - sent > self.unaccounted:
            self.unaccounted = self._posts_answered - sent
            if self.unaccounted == 1:
                extra = {"generation": self.number, "port": self.port}
                log.warning("unaccounted_request", extra=extra)

    def _on_line(self, line: str) -> None:
        if is_answered_post(line):
            self._on_answered_post()
            return
        if self.death is not None or self._watch is None:
            return
        if self.generation is None and port_taken(line):
            self._listener.on_broken(self, Symptom.PORT_TAKEN, "")
        elif self.generation is not None and (port := dropped_connection(line)) is not None:
            self.generation.connection_dropped(port)
        elif suspicious(line):
            self.examine()

    def _on_exit(self, exited: asyncio.Future[Exit]) -> None:
        self.stop_watching()
        if self.child is not None:
            self._tasks.start(self.child.wait_closed(), "close")
            self.child = None
        self._listener.on_exit(self, exited.result())
