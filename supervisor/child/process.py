"""One child process under its keeper: spawn, signal the group, learn of its end. No orphan ever.

`keeper.py` says how an orphan is prevented. Nothing here decides anything; `runner.py` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from supervisor.child.keeper import signal_group
from supervisor.child.output import Lines

_KEEPER = Path(__file__).with_name("keeper.py")

#: After SIGTERM to an orphaned group. The promise is 5 seconds in all; the server needs none of them.
ORPHAN_GRACE_S = 1.5

#: The last words of a child may arrive just after the news of its end; a grandchild that kept the pipe
#: open must not delay the news for longer.
LAST_WORDS_S = 0.04


@dataclass(frozen=True, slots=True)
class Exit:
    """How the process ended; both None if even the keeper was killed and nobody knows."""

    code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One sample from inside the child, in bytes. `at` is the gateway's monotonic clock on arrival."""

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    beat: int
    at: float
    idle: bool = False  # no request is at work, and none waits
    card_free: int | None = None  # of the GPU's own memory, where it has its own (CUDA)
    card_total: int | None = None


class Child:
    """A running child. `pid` is known some 15 ms after the spawn; `exited` resolves when its end is.

    `members`: of its process group, as they were last looked up, which takes long (attempt.py does it).
    """

    def __init__(self, on_output: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.pid: int | None = None
        self.members: Sequence[int] = ()
        self.born: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.telemetry: Telemetry | None = None
        self._output = Lines(on_output)
        self._status = Lines(self._on_status)
        self._samples = Lines(self._on_sample)
        self._transports: list[asyncio.ReadTransport] = []
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._lifeline = -1
        self._keeper: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def spawn(self, command: Callable[[int], Sequence[str]], env: Mapping[str, str]) -> None:
        """Start the keeper, which starts the child. `command` gets the number of the telemetry pipe.

        Raises:
            OSError: the system has no process, file or memory left for us.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as failed:
            failed.callback(self.abandon)
            output = await self._pipe(self._output, theirs)
            status = await self._pipe(self._status, theirs)
            samples = await self._pipe(self._samples, theirs)
            lifeline, self._lifeline = os.pipe()
            theirs.callback(os.close, lifeline)
            os.set_blocking(self._lifeline, False)
            # No await from here on: a spawn cannot be cancelled half-way.
            fds = _Ends(lifeline, status, samples, output)
            self._keeper = _start_keeper(command(samples), env, fds)
            failed.pop_all()
        self._ending = asyncio.create_task(self._end())

    async def _pipe(self, protocol: Lines, theirs: contextlib.ExitStack) -> int:
        """Read a new pipe by `protocol`; returns its write end, which `theirs` closes here."""
        reader, writer = os.pipe()
        theirs.callback(os.close, writer)
        source: IO[bytes] = os.fdopen(reader, "rb", 0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, source)
        self._transports.append(transport)
        return writer

    def signal(self, number: int) -> None:
        """Signal the child's whole group, through the keeper."""
        if not self._ended.done() and self._lifeline >= 0:
            # A keeper that is gone (EPIPE) is noticed by its status pipe; a full pipe holds 64 K orders.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._lifeline, bytes([number]))

    def kill(self) -> None:
        """SIGKILL the group without the keeper's help, which may itself be stopped or gone."""
        if self.pid is not None and not self._ended.done():
            kill_group(self.pid)

    def abandon(self) -> None:
        """Let the keeper end the child as if the gateway had gone."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for transport in self._transports:
            transport.close()

    async def wait_closed(self) -> None:
        """Wait until the keeper is reaped and every pipe closed, some milliseconds after `exited`."""
        if self._ending is not None:
            await self._ending

    def _on_status(self, line: bytes) -> None:
        word, number = line.decode().split()
        match word:
            case "pid":
                self.pid = int(number)
                self.born.set_result(None)
            case "exit":
                self._ended.set_result(Exit(int(number), None))
            case "signal":
                self._ended.set_result(Exit(None, int(number)))

    def _on_sample(self, line: bytes) -> None:
        sample = json.loads(line)
        self.telemetry = Telemetry(
            sample["active"],
            sample["peak"],
            sample["cache"],
            sample["beat"],
            time.monotonic(),
            sample.get("idle", False),
            sample.get("card_free"),
            sample.get("card_total"),
        )

    async def _end(self) -> None:
        """Pass the end on, once the keeper has reported it or was itself killed."""
        await asyncio.wait((self._ended, self._status.ended), return_when=asyncio.FIRST_COMPLETED)
        exit_ = self._ended.result() if self._ended.done() else await self._finish_alone()
        await asyncio.wait((self._output.ended,), timeout=LAST_WORDS_S)
        self.exited.set_result(exit_)
        self.abandon()
        if not self.born.done():
            self.born.set_result(None)
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.wait)

    async def _finish_alone(self) -> Exit:
        """The keeper was killed: do its work. The child is init's now, which tells us nothing."""
        while self.pid is not None and runs(self.pid):
            self.kill()
            await asyncio.sleep(0.02)
        return Exit(None, None)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The keeper's ends of the four pipes; `samples` and `output` are for the child."""

    lifeline: int
    status: int
    samples: int
    output: int


def _start_keeper(command: Sequence[str], env: Mapping[str, str], ends: _Ends) -> subprocess.Popen[bytes]:
    options = (ends.lifeline, ends.status, ORPHAN_GRACE_S, ends.samples)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_KEEPER), *map(str, options), *command],
        stdin=subprocess.DEVNULL,
        stdout=ends.output,
        stderr=ends.output,
        env=dict(env),
        pass_fds=(ends.lifeline, ends.status, ends.samples),
        start_new_session=True,  # a Ctrl-C at the terminal is for the gateway alone
    )


def widen(pipe: int, size: int) -> None:
    """Let a pipe hold `size` bytes, where the system can (Linux); a Mac's grow by themselves, to 64 KiB."""
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # the user's pipes hold too much together already
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def runs(pid: int) -> bool:
    """True unless the process has ended; a zombie that its parent has not yet reaped has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_group(pid: int) -> None:
    """SIGKILL the process group that `pid` leads, or will lead in a moment (see `keeper.signal_group`)."""
    signal_group(pid, signal.SIGKILL)
