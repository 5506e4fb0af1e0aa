"""A request's slot at the gate: what the relay does with it, from its arrival to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.gate.queue import Ticket

if TYPE_CHECKING:  # which makes the slots
    from proxy.gate.gate import Gate

#: A request reports its growth to the gate in steps of this many tokens: a part of the 256 rows that caches
#: grow by, instead of each event of each stream.
_GROWTH_STEP = 32


class NoRoomEver(Exception):
    """A request does not fit into memory even alone; `limit` is the longest prompt that would, in tokens."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class Slot:
    """A request's slot at the gate, from `Gate.enter` on.

    It ends when its request has left and all that retained it have released it.

    Args:
        on_rise: called with the bytes by which the child's memory has risen while the request runs.

    Attributes:
        alone: it runs only while nothing else does.
        reserved: bytes that the last grant reserved; None before the first grant.
        dropped: its answer was broken off, and the child drops it after its next step, before it begins
            another request.
        grant: set by the gate to the reserved bytes, or to the refusal.
        holders: how many retain it.
    """

    __slots__ = ("_gate", "_next_report", "alone", "dropped", "grant", "holders", "id", "on_rise", "reserved")

    def __init__(self, gate: Gate, ticket: Ticket, on_rise: Callable[[int], None]) -> None:
        self._gate = gate
        self.id = ticket.id
        self.alone = ticket.alone
        self.on_rise = on_rise
        self.dropped = False
        self.reserved: int | None = None
        self.grant: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.holders = 0
        self._next_report = 0  # tokens

    async def granted(self) -> None:
        """Wait for the grant.

        Raises:
            Unavailable: the queue is full or the deadline has passed.
            NoRoomEver: the request could not run even alone.
        """
        self.reserved = await self.grant

    def requeue(self, *, alone: bool = False) -> None:
        """Give the grant back and wait by the old arrival, ahead of all later requests.

        `alone`: wait until nothing else runs, and run alone.
        """
        self.alone, self.dropped = alone, False
        self._next_report = 0
        self.grant = asyncio.get_running_loop().create_future()
        self._gate.requeue(self.id, alone=alone)

    def end_isolation(self) -> None:
        """Let others join a request that was granted alone."""
        self.alone = False
        self._gate.end_isolation(self.id)

    def grew(self, tokens: int) -> None:
        """It has generated `tokens` so far; the gate is told in steps."""
        if tokens and tokens >= self._next_report:
            self._next_report = tokens + _GROWTH_STEP
            self._gate.grew(self.id, tokens)

    def retain(self) -> Callable[[], None]:
        """Keep the reservation beyond the end of the block; call the returned function once to release it."""
        self.holders += 1
        return self._release

    def _release(self) -> None:
        self.holders -= 1
        self._gate.release(self)
