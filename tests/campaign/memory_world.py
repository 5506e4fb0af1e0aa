"""One run of the memory campaign: what is to be done, what was seen, and whose turn it is to work."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench.turns import LOST, End, Heard


@dataclass(slots=True)
class Run:
    """What one run came to. `speed`: generated tokens of complete answers a second."""

    turns: int
    titles: int
    left: int
    broken: int
    ends: dict[str, int]
    seconds: float
    tokens: int
    died: bool
    curve: list[tuple[float, int]]
    deaths: list[str] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    def __str__(self) -> str:
        peak = max((size for _, size in self.curve), default=0) / 2**20
        words = [
            f"{self.turns} turns and {self.titles} titles in {self.seconds:.0f} s",
            f"{self.speed:.1f} tokens/s, {self.left} left, {peak:.0f} MiB at most",
            *(["DIED"] if self.died or self.deaths else []),
            *(str(counts) for counts in (self._others(), self.events) if counts),
        ]
        return ", ".join(words)

    def _others(self) -> dict[str, int]:
        return {name: count for name, count in self.ends.items() if name != End.COMPLETE}

    def document(self) -> dict[str, Any]:
        names = ("turns", "titles", "left", "broken", "ends", "seconds", "tokens", "died", "deaths", "events")
        curve = [(round(at, 2), size) for at, size in self.curve]
        return {**{name: getattr(self, name) for name in names}, "speed": self.speed, "curve": curve}


class World:
    """One run: what is to be done, and what was seen. Its clock stands still while it rests."""

    def __init__(self, seed: int, turns: int, seconds: float, *, at_once: int = 99) -> None:
        self.seed = seed
        self.done = Counter[str]()
        self.ends = Counter[str]()
        self.tokens = 0
        self.died = False
        self.curve: list[tuple[float, int]] = []
        self._turns, self._seconds = turns, seconds
        self._places = asyncio.Semaphore(at_once)
        self._out = 0
        self._going, self._quiet = asyncio.Event(), asyncio.Event()
        self._quiet.set()
        self._spent = 0.0
        self._since: float | None = None
        self._stopped = False

    def now(self) -> float:
        """Seconds that were spent at work."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    @property
    def over(self) -> bool:
        enough = self.done["turns"] >= self._turns or self.now() > self._seconds
        return enough or self.died or self._stopped

    @property
    def rests(self) -> bool:
        return self._since is None

    def go(self) -> None:
        self._since = self._since or time.monotonic()
        self._going.set()

    async def rest(self) -> None:
        """Ask nothing more; what was asked is waited for, and its time counts."""
        self._going.clear()
        await self._quiet.wait()
        self._spent, self._since = self.now(), None

    def stop(self) -> None:
        self._spent, self._since, self._stopped = self.now(), None, True

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """A request is out within the block."""
        async with self._places:
            await self._going.wait()
            self._out += 1
            self._quiet.clear()
            try:
                yield
            finally:
                self._out -= 1
                if not self._out:
                    self._quiet.set()

    def saw(self, kind: str, heard: Heard, end: End) -> None:
        self.ends[end] += 1
        if end is End.COMPLETE:
            self.done[kind] += 1
            self.tokens += heard.usage.get("completion_tokens", 0)

    def result(self) -> Run:
        broken = sum(self.ends[end] for end in (*LOST, End.ERROR))
        counts = self.done["turns"], self.done["titles"], self.done["left"], broken
        return Run(*counts, dict(self.ends), self.now(), self.tokens, self.died, self.curve)


async def take_turns(worlds: Sequence[World], seconds: float) -> None:
    """Each works for so long while the others rest, until all is over: so they see the same machine."""
    while any(not world.over for world in worlds):
        for world in worlds:
            if world.over:
                continue
            world.go()
            until = world.now() + seconds
            while not world.over and world.now() < until:
                await asyncio.sleep(0.05)
            if world.over:
                world.stop()
            else:
                await world.rest()
