"""One request at the child: what it answers, read piece by piece, and how it is left.

What goes wrong on the wire is translated here into `UpstreamBroken`; upstream.py makes exchanges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.http10 import Http10Connection, Sink
from supervisor.child.generation import ChildWork
from supervisor.child.process import Telemetry

#: A dead child's last words are already on their way; what has not come by then never will.
LAST_WORDS_S = 0.2

_REPLY_BYTES = 64 * 1024


class GenerationLike(Protocol):
    """One life of the child, as supervisor.supervisor gives it out."""

    number: int
    port: int
    died: asyncio.Future[Any]

    def busy(self) -> AbstractContextManager[ChildWork]: ...

    def progress(self) -> None: ...

    def telemetry(self) -> Telemetry | None: ...

    def giving_up(self, port: int) -> asyncio.Future[None]: ...


@dataclass(frozen=True, slots=True)
class LeftExchange:
    """What is known of a request in whose middle the child was left.

    Attributes:
        port: ours, of the connection that was reset.
        step_s: the longest time between two signs of life of it.
    """

    port: int
    step_s: float


#: Told when the child is done with a request (None), or that it was left in the middle of it.
OnEnd = Callable[[LeftExchange | None], None]


class Exchange:
    """One request and what the child answers, readable piece by piece.

    Attributes:
        over: the child is done with it: the answer ended, or whoever reads it knows that nothing will follow.
    """

    def __init__(self, wire: Http10Connection, generation: GenerationLike) -> None:
        self._wire = wire
        self._generation = generation
        self._given_up = False
        self._step_s, self._heard = 0.0, time.monotonic()
        self.over = wire.ended

    @property
    def status(self) -> int:
        return self._wire.status

    async def read(self, sink: Sink | None = None) -> bytes:
        """All that has arrived, at least one byte; b"" at the end, which may also have been a reset.

        Args:
            sink: is offered what arrives while this waits, at once; what it takes is not returned.

        Raises:
            UpstreamBroken: the end came before a length that was told, the child is dead and silent, or it
                was given up.
        """
        if self._generation.died.done():
            return await self._last_words()
        try:
            self._raise_if_given_up()
            data = await self._wire.read(partial(self._offer, sink) if sink else None)
        except OSError as error:
            self._raise_if_given_up()
            raise UpstreamBroken(BreakKind.CUT, describe(error)) from error
        self._note_progress()
        self.over = self.over or not data
        return data

    def _offer(self, sink: Sink, data: bytes) -> bool:
        taken = sink(data)
        if taken:
            self._note_progress()
        return taken

    def _note_progress(self) -> None:
        self._generation.progress()
        now = time.monotonic()
        self._step_s, self._heard = max(self._step_s, now - self._heard), now

    async def reply(self) -> bytes:
        """The body of an error reply, as much of it as is worth reading."""
        pieces = bytearray()
        while len(pieces) < _REPLY_BYTES and (data := await self.read()):
            pieces += data
        return bytes(pieces)

    def on_death(self) -> None:
        """The generation died: a read that waits must not wait for ever on a stopped or wedged process."""
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._end_reading)

    def give_up(self) -> None:
        """End it for want of memory: `read` raises, also one that waits."""
        self._given_up = True
        self._end_reading()

    def _raise_if_given_up(self) -> None:
        if self._given_up:
            raise UpstreamBroken(BreakKind.ENDED, "ended before memory ran out")

    def _end_reading(self) -> None:
        self._wire.interrupt(ConnectionAbortedError("reading was ended"))

    async def _last_words(self) -> bytes:
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                return await self._wire.read()
        except OSError as error:  # a timeout is one
            raise UpstreamBroken(BreakKind.CUT, describe(error)) from error

    def close(self) -> LeftExchange | None:
        """Leave it, at whatever point; a `LeftExchange` if the child may still be at work on it.

        A child that is still writing is told by a reset: its next write fails. After an orderly close only
        the one after next does, and in prefill that is a whole step more (measured with the real server).
        """
        over = self.over or self._wire.ended or self._generation.died.done()
        self._wire.abort()
        return (
            None if over else LeftExchange(self._wire.port, max(self._step_s, time.monotonic() - self._heard))
        )


def describe(error: BaseException) -> str:
    """What the wire said, for an `UpstreamBroken` or the log."""
    return f"{type(error).__name__}: {error}"
