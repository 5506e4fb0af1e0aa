"""Waits before the next start until the memory of the last child has come back, and reports what has not.

The system reclaims memory some time after a process has ended, and wired memory on a Mac has been seen to
stay. A child that is started too early has to load while its predecessor's memory is still occupied.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from supervisor.machine import system

#: Longest wait in seconds. What has not come back by then is in use by another program, or lost until a
#: reboot.
LONGEST_S = 15.0

#: Free memory that has not grown for this many seconds will not grow any more.
SETTLED_S = 1.5

#: Other programs allocate and free in the meantime, so less than this share of all memory is not missed.
TOLERANCE = 0.03

#: Seconds between two looks at free memory.
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class MemoryWait:
    """One wait, as arithmetic over free memory. Sizes in bytes, times in monotonic seconds.

    `before`: free memory before the dead child was started. `used`: the memory that it used at its end.
    """

    before: int
    used: int
    total: int
    began: float
    best: int = 0
    best_at: float = 0.0

    def seen(self, free: int, now: float) -> MemoryWait:
        """The wait after one more look at free memory."""
        grown = free > self.best + self.total // 1000
        best, best_at = (free, now) if grown else (self.best, self.best_at)
        return replace(self, best=best, best_at=best_at)

    def over(self, free: int, now: float) -> bool:
        """Whether to start the next child now."""
        return not self.missing(free) or now - self.began >= LONGEST_S or now - self.best_at >= SETTLED_S

    def missing(self, free: int) -> int:
        """Bytes that have not come back; 0 if other programs may have taken them."""
        missing = min(self.before - free, self.used)
        return missing if missing > TOLERANCE * self.total else 0


async def wait_for_memory(before: int, used: int) -> tuple[float, int]:
    """Wait until `before` bytes are free again, or no more of the `used` bytes come back.

    Returns the seconds waited, and the bytes that did not come back. Memory that cannot be read is not waited
    for.
    """
    began, free = time.monotonic(), _free_memory(before)
    wait = MemoryWait(before, used, system.total_memory(), began, free, began)
    while not wait.over(free, time.monotonic()):
        await asyncio.sleep(_LOOK_S)
        free = _free_memory(before)
        wait = wait.seen(free, time.monotonic())
    return round(time.monotonic() - began, 2), wait.missing(free)


def _free_memory(unknown: int) -> int:
    """Bytes that are free now, or `unknown` if the system does not tell."""
    free = system.free_memory()
    return unknown if free is None else free
