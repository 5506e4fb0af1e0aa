"""The only writer of the child's state: feeds `state_machine.py`, carries out its effects, arms one timer.

Nothing awaits between reading the state and changing it: `_feed` is synchronous, and everything that
takes time (preparing, loading, probing) runs in tasks that end by feeding an event.
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
from supervisor.child.options import CannotStart, LaunchSpec, SupervisorOptions
from supervisor.child.process import Exit
from supervisor.crash_reports import CrashReports, Quarantine, nobody
from supervisor.launcher import Launcher, not_started
from supervisor.lifecycle import events, state_machine
from supervisor.lifecycle.causes import NATURES, Symptom
from supervisor.lifecycle.diagnosis import Evidence, lacks_memory
from supervisor.lifecycle.state_machine import IllegalEvent, Life, State
from supervisor.notifier import Notifier
from supervisor.snapshot import next_restart_s, picture
from supervisor.state.folder import StateFolder
from supervisor.state.saver import Saver

__all__ = [
    "CannotStart",
    "Change",
    "ChildSnapshot",
    "Death",
    "Generation",
    "IllegalEvent",
    "LaunchSpec",
    "NotReady",
    "Supervisor",
    "SupervisorOptions",
]

log = logging.getLogger("mlxguard.supervisor")

_ALIVE = (State.STARTING, State.READY, State.DRAINING)


class Supervisor:
    """Keeps one child running. All methods are for the event loop's thread.

    `prepare` is asked before each start for what to run; it may take long (a download) and raises
    CannotStart if there is nothing that could be run. `random` gives the jitter, in [0, 1). `inquest` is
    asked at each crash what the child was working on.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[LaunchSpec]],
        options: SupervisorOptions,
        *,
        random: Callable[[], float] = random.random,
        inquest: Quarantine = nobody,
    ) -> None:
        self._options = options
        self._random = random
        self._rules = options.rules
        self._records = StateFolder(options.state_dir)
        self._tasks = Tasks()
        self._deaths = CrashReports(self._records, Saver(self._tasks), inquest)
        self._launcher = Launcher(prepare, self._deaths)
        self._news = Notifier()
        self._life = Life()
        self._since = time.time()
        self._deadline = Timer()
        self._retirement = Timer()
        self._launching: asyncio.Task[None] | None = None
        self._attempt: Attempt | None = None

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
        self._launcher.open()
        self._feed(events.Start())

    async def stop(self) -> None:
        """End the child: SIGINT, SIGTERM, SIGKILL to its group, each with its grace. Draining came before."""
        self._feed(events.Stop())
        while self._life.state is not State.STOPPED:
            await self._news.wait()
        await self._tasks.finish()
        if await self._launcher.close():
            self._records.close()

    def stop_now(self) -> None:
        """SIGKILL the child's group; a `stop` that is waiting returns once it is gone."""
        self._feed(events.Kill())

    async def ready(self, timeout_s: float) -> Generation:
        """The generation that serves, waiting for it.

        Raises:
            NotReady: it failed for good or is stopped (at once), or `timeout_s` is over.
        """
        if (generation := self._serving()) is not None:
            return generation
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._hopeless():
                    await self._news.wait()
                    if (generation := self._serving()) is not None:
                        return generation
        raise NotReady(self.snapshot())

    async def judge(self, generation: Generation) -> Death | None:
        """An answer of `generation` broke: its death if it is dead, None if the child lives."""
        attempt = self._attempt
        if not generation.died.done() and attempt is not None and attempt.generation is generation:
            await asyncio.shield(attempt.examine())
        return generation.died.result() if generation.died.done() else None

    def expect_silence(self, until: float) -> None:
        """The child that serves will show nothing until then, on the monotonic clock, and is no wedge.

        It excuses a silence for `silence.MOST_EXCUSED` stall times at most.
        """
        if (generation := self._serving()) is not None:
            generation.expect_silence(until)

    def strained(self) -> bool:
        """Whether the child's last lines say that it lacked memory, though it may live."""
        return self._attempt is not None and lacks_memory(self._attempt.transcript.lines)

    async def recycle(self, reason: str) -> None:
        """Restart as planned: drain, stop in order, start. Also the way out of FAILED. Returns at once.

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
        """Call back soon after each change of state, in order, in the loop's thread."""
        self._news.subscribe(callback)

    def snapshot(self) -> ChildSnapshot:
        return picture(self._life, self._since, self._deaths, self._attempt)

    def _serving(self) -> Generation | None:
        return self._attempt.generation if self._attempt and self._life.state is State.READY else None

    def _hopeless(self) -> bool:
        life = self._life
        leaving = life.state is State.STOPPING and life.after is state_machine.After.STAY
        return leaving or life.state in (State.FAILED, State.STOPPED)

    # Events in, effects out

    def _feed(self, event: events.Event) -> None:
        before = self._life
        self._life, effects = state_machine.handle(self._rules, before, event, time.monotonic())
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
                self._launching = asyncio.create_task(self._launch(self._attempt), name="launch")
                self._launching.add_done_callback(functools.partial(self._on_launched, self._attempt))
            case events.Signal(number):
                self._signal(number)
            case events.Force():
                if self._attempt is not None and self._attempt.child is not None:
                    self._attempt.child.kill()
            case events.EndGeneration(recycled):
                self._die(Symptom.RECYCLED if recycled else Symptom.STOPPED)
            case events.Overdue():
                if self._attempt is not None:
                    overdue = functools.partial(self.on_broke, self._attempt, firmly=True)
                    asyncio.get_running_loop().call_soon(overdue, Symptom.START_TIMEOUT)

    def _rearm(self) -> None:
        if self._life.deadline is None:
            self._deadline.clear()
        else:
            ring = functools.partial(self._feed, events.Deadline())
            self._deadline.set(self._life.deadline - time.monotonic(), ring)

    def _announce(self, before: State) -> None:
        life = self._life
        self._since = time.time()
        level = logging.ERROR if life.state is State.FAILED else logging.INFO
        extra = {"before": before, "state": life.state, "generation": life.generation}
        log.log(level, "child_state", extra=extra)
        self._deaths.done(life.state, generation=life.generation, wait_s=next_restart_s(life))
        if life.state is State.READY:
            self._deaths.close()
        self._news.tell(Change(before, life.state, life.generation, self._deaths.take_untold()))

    # Starting and signalling

    async def _launch(self, attempt: Attempt) -> None:
        await self._launcher.launch(attempt)
        self._feed(events.Launched())
        attempt.watch(self._records.note_child)

    def _on_launched(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """If nothing was started: say why, and that nothing runs."""
        if task.cancelled():
            self._feed(events.Exited())
            return
        error = task.exception()
        if error is None:
            return
        finding, retry = not_started(error)
        if self._life.state is State.STARTING:
            death = attempt.die_of(finding, Evidence(Symptom.EXIT), self._life.state)
            self._deaths.add(death, Symptom.EXIT, attempt)
        self._feed(events.Exited(retry, self._random()))

    def _signal(self, number: int) -> None:
        if self._attempt is not None and self._attempt.child is not None:
            self._attempt.child.signal(number)
            self._attempt.child.signal(signal.SIGCONT)  # one that was stopped would not hear of it
        elif self._launching is not None:
            self._launching.cancel()

    def _die(self, symptom: Symptom, exit_: Exit | None = None, note: str = "") -> Death:
        assert self._attempt is not None
        death = self._attempt.die(symptom, self._life.state, exit_, note)
        self._deaths.add(death, symptom, self._attempt)
        return death

    # What an attempt tells (attempt.Listener)

    def on_first_token(self, attempt: Attempt) -> None:
        self._feed(events.FirstToken())
        if self._options.max_age_h:
            self._retirement.set(self._options.max_age_h * 3600, functools.partial(self._retire, attempt))

    def _retire(self, attempt: Attempt) -> None:
        """It has served for as long as is wanted."""
        if attempt is self._attempt and self._life.state is State.READY:
            self._recycle("age")

    def on_idle(self, attempt: Attempt) -> None:
        """A drain is over once nobody is served."""
        if attempt is not self._attempt or self._life.state is not State.DRAINING:
            return
        if attempt.generation is None or not attempt.generation.in_flight:
            self._feed(events.Drained())

    def on_broke(self, attempt: Attempt, symptom: Symptom, *, firmly: bool = False, note: str = "") -> None:
        """The child will not serve again, though its process lives."""
        if attempt is not self._attempt or attempt.death is not None or self._life.state not in _ALIVE:
            return
        death = self._die(symptom, note=note)
        self._feed(events.Broke(NATURES[death.cause].retry, self._random(), firmly))

    def on_exit(self, attempt: Attempt, exit_: Exit) -> None:
        self._records.forget_child()
        self._launcher.ended(attempt)
        self._retirement.clear()
        death = attempt.death or self._die(Symptom.EXIT, exit_)
        self._feed(events.Exited(NATURES[death.cause].retry, self._random()))
