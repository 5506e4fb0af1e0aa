"""Whose prompt is counted next: clients take turns, and small prompts come first within a bound.

The tokenizer worker counts one prompt after the other, and cannot be interrupted. So only a few requests are
sent to it at a time, and the others wait here, where those whose clients have disconnected are dropped.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

from proxy.errors import Unavailable

#: Requests that the worker has at a time: one that it counts and the next, so that it never waits for more.
_IN_PIPE = 2
#: A request of at most this many bytes is small: counting it takes some milliseconds.
_SMALL_BYTES = 64 * 1024
#: A request that was overtaken this many times is next.
_MOST_OVERTAKEN = 16


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a count. `size`: bytes of the request's body."""

    client: str = ""
    size: int = 0


#: The asker of the counts of this task; set once its request was read.
ASKER: ContextVar[Asker] = ContextVar("asker", default=Asker())  # noqa: B039 - frozen


class Turn:
    """A turn at the worker. It lasts until the worker has answered, even if its asker has left."""

    def __init__(self, turns: CountingTurns) -> None:
        self._turns = turns
        self._at_work = False
        self._over = False

    def sent(self) -> None:
        """The worker has the request."""
        self._at_work = True

    def settled(self) -> None:
        """The worker has answered, or died."""
        self._at_work = False
        self._end()

    def left(self) -> None:
        """The asker has its answer, or waits no longer."""
        if not self._at_work:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._turns._ended()


@dataclass(slots=True, eq=False)
class _Waiting:
    asker: Asker
    granted: asyncio.Future[Turn]
    overtaken: int = 0


class CountingTurns:
    """Grants turns.

    Args:
        most: requests that wait or have their turn; another one gets Unavailable. One client may have half of
            them while others are there.
    """

    def __init__(self, most: int, in_pipe: int = _IN_PIPE) -> None:
        self._most = most
        self._in_pipe = in_pipe
        self._running = 0
        self._waiting: list[_Waiting] = []  # oldest first
        self._served: dict[str, int] = {}  # client -> number of the last turn that it had
        self._turns = 0

    def __len__(self) -> int:
        """Requests that wait or have their turn."""
        return self._running + len(self._waiting)

    async def take(self, asker: Asker) -> Turn:
        """Wait for a turn. Raises Unavailable if too many wait."""
        of_client = sum(each.asker.client == asker.client for each in self._waiting)
        others = len(self._waiting) - of_client
        if len(self) >= self._most or (others and of_client >= self._most // 2):
            raise Unavailable("tokenizer_busy")
        waiting = _Waiting(asker, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._grant()
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif waiting.granted.done() and not waiting.granted.cancelled():
                waiting.granted.result().left()
            raise

    def _ended(self) -> None:
        self._running -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._running < self._in_pipe:
            chosen = self._next()
            self._waiting.remove(chosen)
            if chosen.granted.done():  # cancelled in this very turn of the loop
                continue
            self._running += 1
            self._turns += 1
            self._served[chosen.asker.client] = self._turns
            chosen.granted.set_result(Turn(self))
        if len(self) == 0:
            self._served.clear()

    def _next(self) -> _Waiting:
        oldest = self._waiting[0]
        if oldest.overtaken >= _MOST_OVERTAKEN:
            return oldest
        chosen = min(self._waiting, key=self._rank)
        for each in self._waiting:
            if each is chosen:
                break
            each.overtaken += 1
        return chosen

    def _rank(self, waiting: _Waiting) -> tuple[bool, int, int]:
        asker = waiting.asker
        return asker.size > _SMALL_BYTES, self._served.get(asker.client, 0), asker.size
