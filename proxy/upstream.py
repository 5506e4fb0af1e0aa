"""The client to the child. What goes wrong on the wire is translated once, here.

The child is http.server: HTTP/1.0, one connection per request, the body ends with the connection
(server.py, APIHandler). So an end proves nothing, and a connection is never used twice. wire.py speaks it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from proxy.core.answer import Break
from proxy.wire import Wire, connected
from supervisor.command import HOST
from supervisor.generation import Work
from supervisor.process import Telemetry
from supervisor.tasks import Tasks

log = logging.getLogger("mlxguard.upstream")

#: socketserver's listen backlog is 5: more at once are dropped by the kernel, and a dropped SYN is only
#: sent again after a second. So: few at a time, give up soon, ask again soon.
_CONNECTS_AT_ONCE = 4
_CONNECT_TIMEOUT_S = 0.5
_CONNECT_RETRIES_S = 5.0

#: A dead child's last words are already on their way; what has not come by then never will.
_LAST_WORDS_S = 0.2

_REPLY_BYTES = 64 * 1024


class Generation(Protocol):
    """One life of the child, as supervisor.runner gives it out."""

    number: int
    port: int
    died: asyncio.Future[Any]

    def busy(self) -> AbstractContextManager[Work]: ...

    def progress(self) -> None: ...

    def telemetry(self) -> Telemetry | None: ...

    def giving_up(self, port: int) -> asyncio.Future[None]: ...


class UpstreamBroken(Exception):
    """No complete answer. `how` says what came, `detail` what the child said; neither says why."""

    def __init__(self, how: Break, detail: str) -> None:
        super().__init__(detail)
        self.how = how
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of a request in whose middle the child was left.

    Attributes:
        port: ours, of the connection that was reset.
        step_s: the longest time between two signs of life of it.
    """

    port: int
    step_s: float


#: Told when the child is done with a request (None), or that it was left in the middle of it.
OnEnd = Callable[[Cut | None], None]


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(OSError),
        stop=stop_after_delay(_CONNECT_RETRIES_S),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )


class Exchange:
    """One request and what the child answers, readable piece by piece.

    Attributes:
        over: the child is done with it: the answer ended, or whoever reads it knows that nothing will follow.
    """

    def __init__(self, wire: Wire, generation: Generation) -> None:
        self._wire = wire
        self._generation = generation
        self._given_up = False
        self._step_s, self._heard = 0.0, time.monotonic()
        self.over = wire.ended

    @property
    def status(self) -> int:
        return self._wire.status

    async def read(self) -> bytes:
        """All that has arrived, at least one byte; b"" at the end, which may also have been a reset.

        Raises:
            UpstreamBroken: the end came before a length that was told, the child is dead and silent, or it
                was given up.
        """
        if self._generation.died.done():
            return await self._last_words()
        try:
            self._raise_if_given_up()
            data = await self._wire.read()
        except OSError as error:
            self._raise_if_given_up()
            raise UpstreamBroken(Break.CUT, _describe(error)) from error
        self._generation.progress()
        now = time.monotonic()
        self._step_s, self._heard = max(self._step_s, now - self._heard), now
        self.over = self.over or not data
        return data

    async def reply(self) -> bytes:
        """The body of an error reply, as much of it as is worth reading."""
        pieces = bytearray()
        while len(pieces) < _REPLY_BYTES and (data := await self.read()):
            pieces += data
        return bytes(pieces)

    def on_death(self) -> None:
        """The generation died: a read that waits must not wait for ever on a stopped or wedged process."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._end_reading)

    def give_up(self) -> None:
        """End it for want of memory: `read` raises, also one that waits."""
        self._given_up = True
        self._end_reading()

    def _raise_if_given_up(self) -> None:
        if self._given_up:
            raise UpstreamBroken(Break.ENDED, "ended before memory ran out")

    def _end_reading(self) -> None:
        self._wire.interrupt(ConnectionAbortedError("reading was ended"))

    async def _last_words(self) -> bytes:
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                return await self._wire.read()
        except OSError as error:  # a timeout is one
            raise UpstreamBroken(Break.CUT, _describe(error)) from error

    def close(self) -> Cut | None:
        """Leave it, at whatever point; a `Cut` if the child may still be at work on it.

        A child that is still writing is told by a reset: its next write fails. After an orderly close only
        the one after next does, and in prefill that is a whole step more (measured with the real server).
        """
        over = self.over or self._wire.ended or self._generation.died.done()
        self._wire.abort()
        return None if over else Cut(self._wire.port, max(self._step_s, time.monotonic() - self._heard))


class Upstream:
    """Asks the child. To be stopped at the end, for those who left before they were answered."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_CONNECTS_AT_ONCE)
        self._tasks = Tasks()

    async def stop(self) -> None:
        self._tasks.cancel()
        await self._tasks.finish()

    @asynccontextmanager
    async def post(
        self,
        generation: Generation,
        path: str,
        body: bytes,
        *,
        via: str = "",
        on_asked: Callable[[], None] = lambda: None,
        on_end: OnEnd = lambda _: None,
    ) -> AsyncIterator[Exchange]:
        """Ask the child; the exchange is readable within the block and cut at its end, also by cancelling.

        `via`: the field of this name, of a request that was received from somebody.

        Args:
            on_asked: called when the child is reached; what it does before that is not this request's doing.
            on_end: called once; when the block is left before the child has begun to answer, later than that.

        Raises:
            UpstreamBroken: it could not be asked, or closed or died before it began to answer.
        """
        fields = f"Via: {via}\r\n" if via else ""
        wire = await self._send(generation, path, body, fields, on_asked=on_asked, on_end=on_end)
        exchange = Exchange(wire, generation)
        on_death = _ignoring_result(exchange.on_death)
        generation.died.add_done_callback(on_death)
        try:
            yield exchange
        finally:
            generation.died.remove_done_callback(on_death)
            on_end(exchange.close())

    async def _send(
        self,
        generation: Generation,
        path: str,
        body: bytes,
        fields: str,
        *,
        on_asked: Callable[[], None],
        on_end: OnEnd,
    ) -> Wire:
        wire, asked = None, False
        try:
            async with _until(generation.died, grace_s=_LAST_WORDS_S):
                wire = await self._connected(generation)
                on_asked()
                await wire.ask(path, body, fields)
                asked = True
                await wire.answered()
                return wire
        except asyncio.CancelledError:
            self._leave_early(wire, generation, on_end, asked=asked)
            raise
        except OSError as error:
            if wire is not None:
                wire.abort()
            on_end(None)
            how = Break.NOT_CONNECTED if wire is None else Break.CUT
            raise UpstreamBroken(how, _describe(error)) from error

    async def _connected(self, generation: Generation) -> Wire:
        """Connect within the child's small backlog. Only this is retried: nothing was asked yet."""
        async with self._turns:
            try:
                return await connected(HOST, generation.port, _CONNECT_TIMEOUT_S)
            except OSError:
                return await _patiently()(connected, HOST, generation.port, _CONNECT_TIMEOUT_S)

    def _leave_early(self, wire: Wire | None, generation: Generation, on_end: OnEnd, *, asked: bool) -> None:
        """Leave a child that has not begun to answer.

        Not before it has: one that finds its client gone when it writes the headers forgets to mark the
        request, and generates all of max_tokens for nobody (server.py, handle_completion; measured). One that
        was not asked whole never begins.
        """
        if wire is not None and asked and not generation.died.done():
            self._tasks.start(self._leave_after_headers(wire, generation, on_end), "leave")
            return
        if wire is not None:
            wire.abort()
        on_end(None)

    async def _leave_after_headers(self, wire: Wire, generation: Generation, on_end: OnEnd) -> None:
        cut = None
        try:
            async with _until(generation.died, grace_s=0.0):
                await wire.answered()
            cut = Exchange(wire, generation).close()
        except OSError as error:
            log.debug("left_unanswered", extra={"error": _describe(error)})
        finally:
            wire.abort()
            on_end(cut)


@asynccontextmanager
async def _until(end: asyncio.Future[Any], *, grace_s: float) -> AsyncIterator[None]:
    """Cancels the block and raises TimeoutError `grace_s` seconds after `end` is done."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        on_end = _ignoring_result(lambda: scope.reschedule(loop.time() + grace_s))
        end.add_done_callback(on_end)
        try:
            yield
        finally:
            end.remove_done_callback(on_end)


def _ignoring_result(callback: Any) -> Any:
    return lambda _: callback()


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
