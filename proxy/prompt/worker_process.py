"""The gateway's end of a worker process, which answers requests in order and is killed if it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any

from proxy.prompt import frames
from proxy.prompt.turns import Turn
from supervisor.aio import Timer
from supervisor.child.process import widen_pipe
from supervisor.environment import without_secrets

log = logging.getLogger("mlxguard.worker")

#: Bytes at the end of the worker's standard error that are kept, for the log entry of a failed start.
_STDERR_BYTES = 2000
#: Seconds for which a notification waits for a request with which it can be sent.
_NOTIFY_S = 0.02
#: File descriptor of standard error.
_STDERR = 2
#: Size of the pipe: a long session's request in one write, and the most that Linux allows everyone
#: (fs.pipe-max-size).
_PIPE_BYTES = 1 << 20


class WorkerDied(Exception):
    """The worker ended, or was killed, before it answered."""


class WorkerStalled(Exception):
    """The worker was killed because it did not answer this request in time."""


class TokenizerRefused(Exception):
    """The worker answered with an exception; `kind` is the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker(asyncio.SubprocessProtocol):
    """One life of a worker process.

    Frames to it are lists of requests, which are dicts; its answers are described in `proxy.worker.main`. Its
    last argument is the descriptor of a lifeline: a pipe on which nothing is ever written, and which closes
    when the gateway ends or does not need the worker any more. A process that is busy does not read its
    input.

    Attributes:
        stall_s: longest time without an answer while requests are pending, in seconds.
        alive: whether requests can be sent.
    """

    def __init__(self, stall_s: float, lifeline: int) -> None:
        self.stall_s = stall_s
        self.alive = True
        self._lifeline: int | None = lifeline
        self._ids = itertools.count()
        self._pending: dict[int, tuple[asyncio.Future[Any], Turn | None]] = {}
        self._watchdog = Timer()
        self._notifications: list[dict[str, Any]] = []
        self._notify_timer = Timer()
        self._answers = frames.Decoder()
        self._stderr = b""
        self._ended = asyncio.Event()

    @classmethod
    async def spawn(cls, command: Sequence[str], stall_s: float) -> Worker:
        """Start the process. Its first answer may take `stall_s`, like any other."""
        end, lifeline = os.pipe()
        try:
            _, worker = await asyncio.get_running_loop().subprocess_exec(
                lambda: cls(stall_s, lifeline), *command, str(end), pass_fds=(end,), env=without_secrets()
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(end)
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        pid = self._process.get_pid()
        assert pid is not None
        return pid

    @property
    def stderr_lines(self) -> list[str]:
        """The last lines that the worker wrote to standard error."""
        return self._stderr.decode(errors="replace").splitlines()

    def __len__(self) -> int:
        """Number of requests without an answer."""
        return len(self._pending)

    async def ask(self, request: dict[str, Any], turn: Turn | None = None) -> Any:
        """The result of one request. Raises TokenizerRefused, WorkerStalled or WorkerDied.

        `turn` is told when the worker has the request, and when it is done with it.
        """
        if not self.alive:
            raise WorkerDied
        request_id = next(self._ids)
        frame = self._frame({"id": request_id, **request})
        answer = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (answer, turn)
        if turn is not None:
            turn.sent()
        try:
            if len(self._pending) == 1:
                self._arm()
            self._stdin.write(frame)
            return await answer
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # marks it as retrieved, if the caller was cancelled meanwhile

    def notify(self, request: dict[str, Any]) -> None:
        """Send a request without an answer, together with the next one or soon, to save wake-ups."""
        if not self._notifications:
            self._notify_timer.set(_NOTIFY_S, self._send)
        self._notifications.append({"id": None, **request})

    def _send(self) -> None:
        self._stdin.write(self._frame())

    def _frame(self, *requests: dict[str, Any]) -> bytes:
        """A frame with all notifications first: this keeps the order and wakes the process once."""
        frame = frames.encode([*self._notifications, *requests])
        self._notifications.clear()
        self._notify_timer.clear()
        return frame

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and kill it after `grace_s`."""
        self._cut_lifeline()
        self._stdin.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
        await self._ended.wait()

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    # --- callbacks of the event loop -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        widen_pipe(stdin.get_extra_info("pipe").fileno(), _PIPE_BYTES)
        self._process, self._stdin = transport, stdin

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._stderr = (self._stderr + data)[-_STDERR_BYTES:]
            return
        try:
            for answer in self._answers.feed(data):
                waiting, turn = self._pending.pop(answer["id"])
                self._settle(waiting, answer)
                self._arm()
                if turn is not None:
                    turn.settled()
        except (ValueError, LookupError, TypeError):
            log.exception("worker_protocol_error", extra={"pid": self.pid})
            self._end()
            self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd != _STDERR:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its pipes are closed."""
        self._end()
        self._process.close()
        self._ended.set()

    # --- internals -------------------------------------------------------------------------------------

    def _cut_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def _end(self) -> None:
        self.alive = False
        self._cut_lifeline()
        self._watchdog.clear()
        self._notify_timer.clear()
        pending, self._pending = self._pending, {}
        for answer, turn in pending.values():
            if not answer.done():
                answer.set_exception(WorkerDied())
            if turn is not None:
                turn.settled()

    @staticmethod
    def _settle(waiting: asyncio.Future[Any], answer: dict[str, Any]) -> None:
        if waiting.done():
            return
        error = answer.get("error")
        if error is None:
            waiting.set_result(answer["result"])
        else:
            waiting.set_exception(TokenizerRefused(error["kind"], error["message"]))

    def _arm(self) -> None:
        """Start the timer of the oldest request; it runs from the answer to the previous one."""
        self._watchdog.clear()
        if self._pending:
            self._watchdog.set(self.stall_s, self._give_up)

    def _give_up(self) -> None:
        oldest, _ = next(iter(self._pending.values()))
        if not oldest.done():
            oldest.set_exception(WorkerStalled())
        log.error("worker_stalled", extra={"pid": self.pid, "stall_s": self.stall_s})
        self.kill()
