"""The only writer of the child's state: feeds `state_machine.py`, carries out its effects, arms one timer.

Nothing awaits between reading the state and changing it: `_feed` is synchronous, and everything that takes
time (preparing, loading, probing) runs in tasks that end by feeding an event.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from supervisor.aio import Tasks, Timer
from supervisor.child.attempt import Attempt
from supervisor.child.generation import Change, ChildSnapshot, Death, Generation, NotReady
from supervisor.child.options import LaunchSpec, SupervisorOptions
from supervisor.child.process import Exit
from supervisor.crash_reports import CrashAttribution, CrashReports
from supervisor.launcher import Launcher, not_started
from supervisor.lifecycle import events, state_machine
from supervisor.lifecycle.causes import CAUSE_INFO, IGNORES_SIGINT, Symptom
from supervisor.lifecycle.diagnosis import Evidence, choked_on_tool_call, lacks_memory
from supervisor.lifecycle.state_machine import Life, State
from supervisor.notifier import Notifier
from supervisor.state.folder import AlreadyRunning, StateFolder
from supervisor.state.saver import Saver

log = logging.getLogger("mlxguard.supervisor")

#: Seconds between two looks at whether the state folder is still there.
_KEEP_STATE_S = 5.0

_ALIVE = (State.STARTING, State.READY, State.DRAINING)


class Supervisor:
    """Keeps one child running. All methods are for the event loop's thread.

    Args:
        prepare: called before each start to find out what to run; may take long (a download), and raises
            CannotStart if nothing can be run.
        random: returns the jitter of restarts, in [0, 1).
        attribute_crash: called at each crash; returns the requests in flight. See `crash_reports.py`.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[LaunchSpec]],
        options: SupervisorOptions,
        *,
        random: Callable[[], float] = random.random,
        attribute_crash: CrashAttribution = lambda _: (),
    ) -> None:
        self._options = options
        self._random = random
        self._state_folder = StateFolder(options.state_dir)
        self._tasks = Tasks()
        self._crash_reports = CrashReports(self._state_folder, Saver(self._tasks), attribute_crash)
        self._launcher = Launcher(prepare, self._crash_reports)
        self._notifier = Notifier()
        self._life = Life()
        self._since = time.time()
        self._deadline_timer = Timer()
        self._age_timer = Timer()
        self._launching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._attempt: Attempt | None = None

    # For the gateway

    async def start(self) -> None:
        """Take the state folder and begin to start the child; returns at once.

        Raises:
            AlreadyRunning: another proxy has the state folder.
            OSError: the state folder cannot be made.
        """
        self._state_folder.open(self._options.proxy_port)
        orphan = self._state_folder.kill_orphan()
        if orphan is not None:
            log.warning("orphan_killed", extra={"pid": orphan})
        self._launcher.open()
        self._keeping = self._tasks.repeat(self._keep_state_folder, "state folder")
        self._feed(events.Start())

    async def _keep_state_folder(self) -> None:
        """Take the state folder again whenever it was deleted, until cancelled."""
        said = ""
        while True:
            await asyncio.sleep(_KEEP_STATE_S)
            try:
                await asyncio.to_thread(self._state_folder.keep)
                said = ""
            except (AlreadyRunning, OSError) as error:
                if str(error) != said:
                    log.error("state_folder_lost", extra={"reason": str(error)})
                said = str(error)

    async def stop(self) -> None:
        """End the child, drained before: SIGINT, SIGTERM and SIGKILL to its group, each with its grace."""
        self._feed(events.Stop())
        while self._life.state is not State.STOPPED:
            await self._notifier.wait()
        if self._keeping is not None:
            self._keeping.cancel()
        await self._tasks.finish()
        if await self._launcher.close():
            self._state_folder.close()

    def stop_now(self) -> None:
        """SIGKILL the child's group; a waiting `stop` returns once it is gone."""
        self._feed(events.Kill())

    async def ready(self, timeout_s: float) -> Generation:
        """Wait for the generation that serves.

        Raises:
            NotReady: at once if the child has failed for good or is stopped, else after `timeout_s`.
        """
        if (generation := self._serving()) is not None:
            return generation
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._given_up():
                    await self._notifier.wait()
                    if (generation := self._serving()) is not None:
                        return generation
        raise NotReady(self.snapshot())

    async def judge(self, generation: Generation) -> Death | None:
        """Examine `generation` after one of its responses broke: its death, or None if it lives."""
        attempt = self._attempt
        if not generation.died.done() and attempt is not None and attempt.generation is generation:
            await asyncio.wait((attempt.examine(),))  # a failure of the examination is dealt with there
        return generation.died.result() if generation.died.done() else None

    def expect_silence(self, until: float) -> None:
        """Do not treat silence of the serving child before this monotonic time as a stall: it was predicted.

        A silence is excused for at most `silence_limits.MAX_EXCUSED` stall times.
        """
        if (generation := self._serving()) is not None:
            generation.expect_silence(until)

    def short_of_memory(self) -> bool:
        """Whether the child's last lines say that it lacked memory, though it may still live."""
        return self._attempt is not None and lacks_memory(self._attempt.transcript.lines)

    def choked_on_tool_call(self, port: int) -> bool:
        """Whether the child failed at a tool call of its answer to the connection from this port."""
        return self._attempt is not None and choked_on_tool_call(self._attempt.transcript.lines, port)

    async def recycle(self, reason: str) -> None:
        """Restart as planned: drain, stop in order, start. Also leaves FAILED. Returns at once.

        Raises:
            IllegalEvent: the supervisor is stopped or stopping.
        """
        self._recycle(reason)

    def _recycle(self, reason: str) -> None:
        log.info("recycle", extra={"reason": reason, "generation": self._life.generation})
        self._feed(events.Recycle())
        if self._attempt is not None:
            self.on_idle(self._attempt)

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call `callback` soon after each change of state, in order, in the event loop's thread."""
        self._notifier.subscribe(callback)

    def snapshot(self) -> ChildSnapshot:
        """The state now, for status, metrics and `NotReady`."""
        life, attempt, last = self._life, self._attempt, self._crash_reports.last
        child = attempt.child if attempt else None
        return ChildSnapshot(
            state=life.state,
            generation=life.generation,
            cause=last.cause if last else None,
            explanation=last.explanation if last else None,
            advice=last.advice if last else None,
            pid=child.pid if child else None,
            port=attempt.port if attempt and child else None,
            since=self._since,
            ready_since=attempt.ready_since if attempt and child else None,
            restarts=max(0, life.generation - 1),
            restarts_by_cause=self._crash_reports.by_cause,
            next_restart_s=life.next_restart_s(time.monotonic()),
            in_flight=attempt.generation.in_flight if attempt and attempt.generation else 0,
            telemetry=child.telemetry if child else None,
            memory_bytes=attempt.memory_bytes() if attempt else None,
            log_tail=attempt.transcript.lines if attempt else (),
            unaccounted=attempt.unaccounted if attempt else 0,
        )

    def _serving(self) -> Generation | None:
        return self._attempt.generation if self._attempt and self._life.state is State.READY else None

    def _given_up(self) -> bool:
        life = self._life
        stopping = life.state is State.STOPPING and life.after is state_machine.AfterExit.STAY
        return stopping or life.state in (State.FAILED, State.STOPPED)

    # Events in, effects out

    def _feed(self, event: events.Event) -> None:
        before = self._life
        self._life, effects = state_machine.handle(self._options, before, event, time.monotonic())
        if self._life.state not in _ALIVE and self._attempt is not None:
            self._attempt.stop_watching()
        for effect in effects:
            self._carry_out(effect)
        if self._life.deadline != before.deadline:
            self._rearm()
        if self._life.state is not before.state:
            self._announce(before.state)

    def _carry_out(self, effect: events.Effect) -> None:
        match effect:
            case events.Launch(generation):
                self._attempt = Attempt(generation, self._options, self, self._tasks)
                self._launching = launching = asyncio.create_task(self._launch(self._attempt), name="launch")
                launching.add_done_callback(functools.partial(self._on_launched, self._attempt))
            case events.Signal(number):
                self._signal(number)
            case events.Force():
                if self._attempt is not None and self._attempt.child is not None:
                    self._attempt.child.kill()
            case events.EndGeneration(recycled):
                self._die(Symptom.RECYCLED if recycled else Symptom.STOPPED)
            case events.Overdue():
                if self._attempt is not None:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(self.on_broken, self._attempt, Symptom.START_TIMEOUT, "")

    def _rearm(self) -> None:
        if self._life.deadline is None:
            self._deadline_timer.clear()
        else:
            passed = functools.partial(self._feed, events.Deadline())
            self._deadline_timer.set(self._life.deadline - time.monotonic(), passed)

    def _announce(self, before: State) -> None:
        life = self._life
        self._since = time.time()
        level = logging.ERROR if life.state is State.FAILED else logging.INFO
        extra = {"before": before, "state": life.state, "generation": life.generation}
        log.log(level, "child_state", extra=extra)
        wait_s = life.next_restart_s(time.monotonic())
        self._crash_reports.note(life.state, generation=life.generation, wait_s=wait_s)
        if life.state is State.READY:
            self._crash_reports.close()
        self._notifier.announce(
            Change(before, life.state, life.generation, self._crash_reports.take_unannounced())
        )

    # Starting and signalling

    async def _launch(self, attempt: Attempt) -> None:
        await self._launcher.launch(attempt)
        self._feed(events.Launched())
        attempt.watch(self._state_folder.record_child)

    def _on_launched(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """If nothing was started, record why and that nothing runs."""
        if task.cancelled():
            self._feed(events.Exited())
            return
        error = task.exception()
        if error is None:
            return
        diagnosis, retry = not_started(error)
        if self._life.state is State.STARTING:
            death = attempt.die_of(diagnosis, Evidence(Symptom.EXIT), self._life.state)
            self._crash_reports.add(death, Symptom.EXIT, attempt)
        self._feed(events.Exited(retry, self._random()))

    def _signal(self, number: int) -> None:
        if self._attempt is not None and self._attempt.child is not None:
            self._attempt.child.signal(number)
            self._attempt.child.signal(signal.SIGCONT)  # a stopped process would not react
        elif self._launching is not None:
            self._launching.cancel()

    def _die(self, symptom: Symptom, exit_: Exit | None = None, note: str = "") -> Death:
        assert self._attempt is not None
        death = self._attempt.die(symptom, self._life.state, exit_, note)
        self._crash_reports.add(death, symptom, self._attempt)
        return death

    # Events of an attempt (attempt.Listener)

    def on_first_token(self, attempt: Attempt) -> None:
        self._feed(events.FirstToken())
        if self._options.max_age_h:
            self._age_timer.set(self._options.max_age_h * 3600, functools.partial(self._retire, attempt))

    def _retire(self, attempt: Attempt) -> None:
        """Recycle a child that has reached its maximum age."""
        if attempt is self._attempt and self._life.state is State.READY:
            self._recycle("age")

    def on_idle(self, attempt: Attempt) -> None:
        """End a drain once no request is in flight."""
        if attempt is not self._attempt or self._life.state is not State.DRAINING:
            return
        if attempt.generation is None or not attempt.generation.in_flight:
            self._feed(events.Drained())

    def on_broken(self, attempt: Attempt, symptom: Symptom, note: str) -> None:
        """Replace a child that will not serve again although its process lives."""
        if attempt is not self._attempt or attempt.death is not None or self._life.state not in _ALIVE:
            return
        death = self._die(symptom, note=note)
        retry = CAUSE_INFO[death.cause].retry
        self._feed(events.Broken(retry, self._random(), symptom in IGNORES_SIGINT))

    def on_exit(self, attempt: Attempt, exit_: Exit) -> None:
        self._state_folder.remove_child_record()
        self._launcher.ended(attempt)
        self._age_timer.clear()
        death = attempt.death or self._die(Symptom.EXIT, exit_)
        self._feed(events.Exited(CAUSE_INFO[death.cause].retry, self._random()))
