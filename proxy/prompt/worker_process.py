"""A worker process as the gateway sees it: answers requests in order, is killed when it is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any

from proxy.prompt import frames
from supervisor.child.process import widen

log = logging.getLogger("mlxguard.worker")

#: Bytes of the end of standard error that are kept, for the log entry of a failed start.
_SAID_BYTES = 2000
#: What needs no answer waits so long for a request that it can go with.
_TELL_S = 0.02
_STDERR = 2
#: A long session's request in one write; the most that Linux gives to everybody (fs.pipe-max-size).
_PIPE_BYTES = 1 << 20


class WorkerDied(Exception):
    """The worker ended, or was killed, before it answered."""


class WorkerStalled(Exception):
    """The worker was killed over this request: it gave no answer within the time."""


class TokenizerRefused(Exception):
    """The worker answered that something was raised. `kind`: the name of the exception's class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker(asyncio.SubprocessProtocol):
    """One life of a worker process. Frames to it are lists of requests, which are dicts; answers are as
    `proxy.worker.main` gives them.

    Its last argument is the descriptor of a pipe from which nothing ever comes but its end, when the gateway
    ends or has no more use for the worker: a process that is busy does not read its input.

    Attributes:
        alive: it can be asked.
    """

    def __init__(self, stall_s: float, lifeline: int) -> None:
        self.stall_s = stall_s
        self.alive = True
        self._lifeline: int | None = lifeline
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._watchdog: asyncio.TimerHandle | None = None
        self._told: list[dict[str, Any]] = []
        self._telling: asyncio.TimerHandle | None = None
        self._answers = frames.Decoder()
        self._said = b""
        self._gone = asyncio.Event()

    @classmethod
    async def spawn(cls, command: Sequence[str], stall_s: float) -> Worker:
        """Start the process; it may take `stall_s` for its first answer as for any other."""
        end, lifeline = os.pipe()
        try:
            _, worker = await asyncio.get_running_loop().subprocess_exec(
                lambda: cls(stall_s, lifeline), *command, str(end), pass_fds=(end,)
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(end)
        return worker

    @property
    def pid(self) -> int:
        pid = self._process.get_pid()
        assert pid is not None
        return pid

    @property
    def said(self) -> list[str]:
        """The last lines that it wrote to standard error."""
        return self._said.decode(errors="replace").splitlines()

    def __len__(self) -> int:
        """Requests that have no answer yet."""
        return len(self._pending)

    async def ask(self, request: dict[str, Any]) -> Any:
        """The result of one request. Raises Refused, Stalled or WorkerDied."""
        if not self.alive:
            raise WorkerDied
        request_id = next(self._ids)
        answer = self._pending[request_id] = self._loop.create_future()
        try:
            if self._watchdog is None:
                self._arm()
            self._send({"id": request_id, **request})
            return await answer
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # marks it as seen where the caller went away while it came

    def tell(self, request: dict[str, Any]) -> None:
        """Send what needs no answer, with the next request or soon: by itself it would wake the process."""
        self._told.append({"id": None, **request})
        if self._telling is None:
            self._telling = self._loop.call_later(_TELL_S, self._send)

    def _send(self, *asked: dict[str, Any]) -> None:
        """What was told goes first, in the same frame: the order is kept, and the process woken once."""
        frame = frames.encode([*self._told, *asked])
        self._told.clear()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._stdin.write(frame)

    async def stop(self, grace_s: float) -> None:
        """End the process: it is told to, and after `grace_s` it is killed."""
        self._cut_lifeline()
        self._stdin.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._gone.wait()
        except TimeoutError:
            self.kill()
        await self._gone.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    # --- for the loop ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        widen(stdin.get_extra_info("pipe").fileno(), _PIPE_BYTES)
        self._process, self._stdin = transport, stdin

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._said = (self._said + data)[-_SAID_BYTES:]
            return
        try:
            for answer in self._answers.feed(data):
                self._settle(self._pending.pop(answer["id"]), answer)
                self._arm()
        except (ValueError, LookupError, TypeError):
            log.exception("worker_not_understood", extra={"pid": self.pid})
            self._end()
            self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd != _STDERR:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its pipes are closed."""
        self._end()
        self._process.close()
        self._gone.set()

    # --- the machinery --------------------------------------------------------------------------------

    def _cut_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def _end(self) -> None:
        self.alive = False
        self._cut_lifeline()
        self._disarm()
        if self._telling is not None:
            self._telling.cancel()
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(WorkerDied())
        self._pending.clear()

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
        """The time runs for the oldest request, from when the one before it was answered."""
        self._disarm()
        if self._pending:
            self._watchdog = self._loop.call_later(self.stall_s, self._give_up)

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _give_up(self) -> None:
        oldest = next(iter(self._pending.values()))
        if not oldest.done():
            oldest.set_exception(WorkerStalled())
        log.error("worker_stalled", extra={"pid": self.pid, "stall_s": self.stall_s})
        self.kill()
