"""Memory comes back before the next start: how long to wait for it, and what did not come.

The system takes memory back some time after a process has ended, and wired memory on a Mac has been seen
to stay. A child that is started too early loads into what its predecessor still holds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from supervisor.machine import system

#: Longest wait. What has not come back by then is another program's, or lost until a reboot.
LONGEST_S = 15.0

#: Memory that has not grown for this long is not coming back.
SETTLED_S = 1.5

#: Other programs take and give meanwhile; what is less than this share of the machine is not missed.
TOLERANCE = 0.03

_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class MemoryWait:
    """One wait, as arithmetic over what is free. Bytes; monotonic seconds.

    `before`: what was free before the dead child had started; `held`: what it held at its end.
    """

    before: int
    held: int
    total: int
    began: float
    best: int = 0
    best_at: float = 0.0

    def seen(self, free: int, now: float) -> MemoryWait:
        """The wait after one more look."""
        grown = free > self.best + self.total // 1000
        best, best_at = (free, now) if grown else (self.best, self.best_at)
        return replace(self, best=best, best_at=best_at)

    def over(self, free: int, now: float) -> bool:
        """Whether to start now."""
        return not self.missing(free) or now - self.began >= LONGEST_S or now - self.best_at >= SETTLED_S

    def missing(self, free: int) -> int:
        """Bytes that have not come back; 0 if that is no more than others may have taken."""
        missing = min(self.before - free, self.held)
        return missing if missing > TOLERANCE * self.total else 0


@dataclass(frozen=True, slots=True)
class Waited:
    """What came of it: seconds, and bytes that did not come back."""

    waited_s: float
    missing_bytes: int


async def memory_back(before: int, held: int) -> Waited:
    """Wait until the machine has `before` bytes free again, or nothing more of what was `held` comes."""
    began, free = time.monotonic(), system.free_memory()
    wait = MemoryWait(before, held, system.total_memory(), began, free, began)
    while not wait.over(free, time.monotonic()):
        await asyncio.sleep(_LOOK_S)
        free = system.free_memory()
        wait = wait.seen(free, time.monotonic())
    return Waited(round(time.monotonic() - began, 2), wait.missing(free))
