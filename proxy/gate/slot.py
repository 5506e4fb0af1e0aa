"""A request's slot at the gate: what the relay does with it, from its arrival to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

#: A request reports its growth to the gate in steps of this many tokens: a part of the 256 rows that caches
#: grow by, instead of each event of each stream.
_GROWTH_STEP = 32


class SlotGate(Protocol):
    """The part of proxy.gate.gate.Gate that a slot uses."""

    async def wait(self, id: str) -> int: ...

    def requeue(self, id: str, *, alone: bool) -> None: ...

    def end_isolation(self, id: str) -> None: ...

    def grew(self, id: str, tokens: int) -> None: ...

    def retain(self, id: str) -> Callable[[], None]: ...

    def position(self, id: str) -> int | None: ...


class NoRoomEver(Exception):
    """A request does not fit into memory even alone; `limit` is the longest prompt that would, in tokens."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class Slot:
    """A request's slot at the gate, from `Gate.enter` on.

    Attributes:
        alone: it runs only while nothing else does.
        reserved: bytes that the last grant reserved; None before the first grant.
        dropped: its answer was broken off, and the child drops it after its next step, before it begins
            another request.
    """

    __slots__ = ("_gate", "_next_report", "alone", "dropped", "id", "reserved")

    def __init__(self, gate: SlotGate, id: str, *, alone: bool) -> None:
        self._gate = gate
        self.id = id
        self.alone = alone
        self.dropped = False
        self.reserved: int | None = None
        self._next_report = 0  # tokens

    async def granted(self) -> None:
        """Wait for the grant.

        Raises:
            Unavailable: the queue is full or the deadline has passed.
            NoRoomEver: the request could not run even alone.
        """
        self.reserved = await self._gate.wait(self.id)

    def requeue(self, *, alone: bool = False) -> None:
        """Give the grant back and wait by the old arrival, ahead of all later requests.

        `alone`: wait until nothing else runs, and run with nothing beside it.
        """
        self.alone, self.dropped = alone, False
        self._next_report = 0
        self._gate.requeue(self.id, alone=alone)

    def end_isolation(self) -> None:
        """Let others run beside a request that was granted alone."""
        self.alone = False
        self._gate.end_isolation(self.id)

    def grew(self, tokens: int) -> None:
        """It has generated `tokens` so far; the gate is told in steps."""
        if tokens and tokens >= self._next_report:
            self._next_report = tokens + _GROWTH_STEP
            self._gate.grew(self.id, tokens)

    def retain(self) -> Callable[[], None]:
        """Keep the reservation beyond the end of the block; call the returned function once to release it."""
        return self._gate.retain(self.id)

    @property
    def position(self) -> int | None:
        """Position in the queue, from 1; None once granted."""
        return self._gate.position(self.id)


class RetainedSlots:
    """Reference counts of slots, by id. A slot ends when its request has left and all holders released it."""

    def __init__(self) -> None:
        self._holders: Counter[str] = Counter()
        self._left: set[str] = set()

    def __len__(self) -> int:
        """Number of slots that are retained after their request has left."""
        return len(self._left)

    def retain(self, id: str) -> None:
        """Count one more holder."""
        self._holders[id] += 1

    def leave(self, id: str) -> bool:
        """Its request leaves; returns whether the slot ends now."""
        if id not in self._holders:
            return True
        self._left.add(id)
        return False

    def release(self, id: str) -> bool:
        """One holder releases it; returns whether the slot ends now."""
        self._holders[id] -= 1
        if self._holders[id]:
            return False
        del self._holders[id]
        if id not in self._left:
            return False
        self._left.remove(id)
        return True
