"""One child process under its keeper: spawns it, signals its group, and learns of its end.

`keeper.py` explains how orphans are prevented. Nothing is decided here; the supervisor decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import psutil

from supervisor.child.keeper import signal_group
from supervisor.child.output import Lines

log = logging.getLogger("mlxguard.child")

_T = TypeVar("_T")

_KEEPER = Path(__file__).with_name("keeper.py")

#: Seconds between SIGTERM and SIGKILL for an orphaned group. The promise is 5 seconds in all; the server
#: needs hardly any.
ORPHAN_GRACE_S = 1.5

#: The last output of a child may arrive this many seconds after the report of its end. A grandchild that
#: keeps the pipe open must not delay that report for longer.
LAST_OUTPUT_S = 0.04


@dataclass(frozen=True, slots=True)
class Exit:
    """How the process ended; both are None if the keeper was killed too, so that it is unknown."""

    code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One sample of `server_wrapper.py`, in bytes. `at`: monotonic time of its arrival at the gateway."""

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    beat: int
    at: float
    idle: bool = False  # no request is running or waiting
    card_free: int | None = None  # of the GPU's own memory, if it has any (CUDA)
    card_total: int | None = None


class Child:
    """A running child. `pid` is known some 15 ms after the spawn; `exited` resolves when its end is known.

    `members`: pids of its process group as of the last look-up, which is slow and done by `attempt.py`.
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
            OSError: the system has no process, file or memory left.
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
            self._keeper = _start_keeper((lifeline, status, samples), output, command(samples), env)
            failed.pop_all()
        self._ending = asyncio.create_task(self._end())

    async def _pipe(self, protocol: Lines, theirs: contextlib.ExitStack) -> int:
        """Read a new pipe with `protocol`; return its write end, which `theirs` closes in this process."""
        reader, writer = os.pipe()
        theirs.callback(os.close, writer)
        source: IO[bytes] = os.fdopen(reader, "rb", 0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, source)
        self._transports.append(transport)
        return writer

    def signal(self, number: int) -> None:
        """Signal the child's whole group, through the keeper."""
        if not self._ended.done() and self._lifeline >= 0:
            # The end of a keeper (EPIPE) is noticed at its status pipe; a full pipe holds 64 K signals.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._lifeline, bytes([number]))

    def kill(self) -> None:
        """SIGKILL the group without the keeper, which may itself be stopped or gone."""
        if self.pid is not None and not self._ended.done():
            kill_group(self.pid)

    def abandon(self) -> None:
        """Make the keeper end the child as if the gateway had ended."""
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
                _resolve(self.born, None)
            case "exit":
                _resolve(self._ended, Exit(int(number), None))
            case "signal":
                _resolve(self._ended, Exit(None, int(number)))

    def _on_sample(self, line: bytes) -> None:
        self.telemetry = Telemetry(at=time.monotonic(), **json.loads(line))

    async def _end(self) -> None:
        """Publish the child's end once the keeper has reported it or was itself killed."""
        await asyncio.wait((self._ended, self._status.ended), return_when=asyncio.FIRST_COMPLETED)
        try:
            exit_ = self._ended.result() if self._ended.done() else await self._end_without_keeper()
        except Exception:  # an end that is never published would be waited for without end
            log.exception("child_end_unclear", extra={"pid": self.pid})
            exit_ = Exit(None, None)
        await asyncio.wait((self._output.ended,), timeout=LAST_OUTPUT_S)
        _resolve(self.exited, exit_)
        self.abandon()
        _resolve(self.born, None)
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.wait)

    async def _end_without_keeper(self) -> Exit:
        """Do the work of a killed keeper. The child belongs to init now, so its exit status is lost."""
        while self.pid is not None and is_running(self.pid):
            self.kill()
            await asyncio.sleep(0.02)
        return Exit(None, None)


def _resolve(future: asyncio.Future[_T], result: _T) -> None:
    """Set a result, unless a waiter was cancelled, and the future with it, or the end came first."""
    if not future.done():
        future.set_result(result)


def _start_keeper(
    fds: tuple[int, int, int], output: int, command: Sequence[str], env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    lifeline, status, samples = fds
    options = (lifeline, status, ORPHAN_GRACE_S, samples)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_KEEPER), *map(str, options), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(env),
        pass_fds=fds,
        start_new_session=True,  # a Ctrl-C at the terminal is for the gateway alone
    )


def widen_pipe(pipe: int, size: int) -> None:
    """Let a pipe hold `size` bytes on Linux; on a Mac pipes grow by themselves, to 64 KiB."""
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # beyond the limit on the user's pipes together
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def is_running(pid: int) -> bool:
    """Whether the process runs, or may run; a zombie that has not been reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True


def kill_group(pid: int) -> None:
    """SIGKILL the process group that `pid` leads or is about to lead (see `keeper.signal_group`)."""
    signal_group(pid, signal.SIGKILL)
