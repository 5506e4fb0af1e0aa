"""One request at the child: its answer, read as it comes, and its end.

Errors of the connection become `UpstreamBroken` here; `proxy.upstream.client` makes exchanges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.http10 import Http10Connection, Sink
from supervisor.child.generation import Generation

#: The last words of a dead child are read for this long: they are on their way, and nothing comes later.
LAST_WORDS_S = 0.2

#: An error reply is read up to this size.
_REPLY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AbortedExchange:
    """A request that was aborted while the child may have been at work on it.

    Attributes:
        port: the gateway's own, of the connection that was reset.
        step_s: the longest time between two signs of life.
    """

    port: int
    step_s: float


#: Called with None when the child is done with a request, else with what was aborted.
OnEnd = Callable[[AbortedExchange | None], None]


class Exchange:
    """One request and its answer.

    `over`: the child is done with it: the answer ended, or its reader knows that nothing will follow.
    """

    def __init__(self, connection: Http10Connection, generation: Generation) -> None:
        self._connection = connection
        self._generation = generation
        self._given_up = False
        self._step_s, self._heard = 0.0, time.monotonic()
        self.over = connection.ended

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def port(self) -> int:
        """The gateway's own port of the connection."""
        return self._connection.port

    async def read(self, sink: Sink | None = None) -> bytes:
        """All bytes that have arrived, at least one; b"" at the end, which may also have been a reset.

        `sink`: is offered at once what arrives while this waits; what it takes is not returned.

        Raises:
            UpstreamBroken: the body ended before its announced length, the child is dead and silent, or the
                exchange was given up.
        """
        if self._generation.died.done():
            return await self._last_words()
        try:
            self._raise_if_given_up()
            data = await self._connection.read(partial(self._offer, sink) if sink else None)
        except OSError as error:
            self._raise_if_given_up()
            raise UpstreamBroken(BreakKind.CUT, describe(error), port=self.port) from error
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
        """The body of an error reply, up to 64 KiB."""
        pieces = bytearray()
        while len(pieces) < _REPLY_BYTES and (data := await self.read()):
            pieces += data
        return bytes(pieces)

    def on_death(self, _: object) -> None:
        """End a read that waits soon after the child's death, as a stopped process keeps its sockets open."""
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._end_reading)

    def give_up(self) -> None:
        """End the exchange for lack of memory: `read` raises, also one that waits."""
        self._given_up = True
        self._end_reading()

    def _raise_if_given_up(self) -> None:
        if self._given_up:
            raise UpstreamBroken(BreakKind.ENDED, "ended before memory ran out")

    def _end_reading(self) -> None:
        self._connection.interrupt(ConnectionAbortedError("reading was ended"))

    async def _last_words(self) -> bytes:
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                return await self._connection.read()
        except OSError as error:  # a timeout is one
            raise UpstreamBroken(BreakKind.CUT, describe(error)) from error

    def close(self) -> AbortedExchange | None:
        """Close it at any point; an `AbortedExchange` if the child may still be at work on it.

        It is closed by a reset, so that the child's next write fails. After an orderly close only the one
        after next does, which in prefill is a whole step later (measured with the real server).
        """
        over = self.over or self._connection.ended or self._generation.died.done()
        self._connection.abort()
        if over:
            return None
        return AbortedExchange(self._connection.port, max(self._step_s, time.monotonic() - self._heard))


def describe(error: BaseException) -> str:
    """An error of the connection as text, for an `UpstreamBroken` or the log."""
    return f"{type(error).__name__}: {error}"
