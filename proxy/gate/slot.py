"""A request's place at the gate: what the relay does with it, from its arrival to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

#: Tokens that a request may grow by before the gate hears of it: a part of the 256 rows that caches grow by,
#: and not each event of each stream.
_GROWTH = 32


class Holder(Protocol):
    """What is used of proxy.gate.gate.Gate."""

    async def wait(self, id: str) -> int: ...

    def requeue(self, id: str, *, alone: bool) -> None: ...

    def join(self, id: str) -> None: ...

    def grew(self, id: str, tokens: int) -> None: ...

    def keep(self, id: str) -> Callable[[], None]: ...

    def position(self, id: str) -> int | None: ...


class NoRoomEver(Exception):
    """There is no memory for it even alone; `limit` is the longest prompt that could, in tokens."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class Slot:
    """A request's place at the gate, from `Gate.enter` on.

    Attributes:
        reserved: bytes, from the last grant on.
        dropped: it was broken off, and the child drops it after its next step, before it begins another.
    """

    __slots__ = ("_gate", "_tell_at", "alone", "dropped", "id", "reserved")

    def __init__(self, gate: Holder, id: str, *, alone: bool) -> None:
        self._gate = gate
        self.id = id
        self.alone = alone
        self.dropped = False
        self.reserved: int | None = None
        self._tell_at = 0  # tokens

    async def granted(self) -> None:
        """Wait for the grant.

        Raises:
            Unavailable: the queue is full or the deadline has passed.
            NoRoomEver: it could not run even alone.
        """
        self.reserved = await self._gate.wait(self.id)

    def again(self, *, alone: bool = False) -> None:
        """Give the grant back and wait by the old arrival, before all who came later.

        `alone`: until nothing else runs, and nothing else will run beside it.
        """
        self.alone, self.dropped = alone, False
        self._tell_at = 0
        self._gate.requeue(self.id, alone=alone)

    def join(self) -> None:
        """Let others run beside one that was granted alone."""
        self.alone = False
        self._gate.join(self.id)

    def grew(self, tokens: int) -> None:
        """It has generated `tokens` so far; the gate is told now and then."""
        if tokens and tokens >= self._tell_at:
            self._tell_at = tokens + _GROWTH
            self._gate.grew(self.id, tokens)

    def keep(self) -> Callable[[], None]:
        """Keep the reservation, beyond the end of the block, until the returned function is called, once."""
        return self._gate.keep(self.id)

    @property
    def position(self) -> int | None:
        """Place in the queue, from 1; None once granted."""
        return self._gate.position(self.id)


class RetainedSlots:
    """Ids of places. A place ends when its request has left and nobody keeps it, whichever comes last."""

    def __init__(self) -> None:
        self._keepers: Counter[str] = Counter()
        self._left: set[str] = set()

    @property
    def leaving(self) -> int:
        """How many have left and are still kept."""
        return len(self._left)

    def keep(self, id: str) -> None:
        """One more keeps it."""
        self._keepers[id] += 1

    def leave(self, id: str) -> bool:
        """Its request leaves; whether the place ends now."""
        if id not in self._keepers:
            return True
        self._left.add(id)
        return False

    def release(self, id: str) -> bool:
        """One of its keepers is done; whether the place ends now."""
        self._keepers[id] -= 1
        if self._keepers[id]:
            return False
        del self._keepers[id]
        if id not in self._left:
            return False
        self._left.remove(id)
        return True
