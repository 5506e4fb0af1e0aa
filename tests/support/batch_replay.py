"""Replays mlx_lm's batches step by step, in rows: which buffers exist and what pins them.

It judges the cost model of batches. It follows generate.py (`BatchGenerator._next`) and models/cache.py
(`BatchKVCache`, `BatchRotatingKVCache`) of mlx-lm 0.32.2, with a prompt cache that has space for everything.
A buffer is an object of its own: it exists as long as something references it, and every copy is another one.
It stands for `layers` caches that grow, and as many with a window if there is one; a copy copies one cache
after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from supervisor.memory_model.kv_cache import STEP, rounded


@dataclass(eq=False)
class Buffer:
    """A buffer of `members` sequences of `rows` rows, filled up to `index` and padded on the left.

    Where there is a window, also of `windowed` rows, after `fed_rows` tokens (`_offset`).
    """

    members: list[int]
    rows: int = 0
    index: int = 0
    window: int = 0
    windowed: int = 0
    fed_rows: int = 0

    @property
    def size(self) -> int:
        return len(self.members) * (self.rows + self.windowed)

    @property
    def widest(self) -> int:
        """Rows of the larger of the two kinds of cache."""
        return len(self.members) * max(self.rows, self.windowed)

    def fed(self, tokens: int) -> Buffer:
        """`update_and_fetch`."""
        rows = self.rows
        if self.index + tokens > rows:
            rows = (self.index if self.index % STEP else rows) + rounded(tokens)
        rotated = self._rotated(tokens) if self.window else 0
        return Buffer(self.members, rows, self.index + tokens, self.window, rotated, self.fed_rows + tokens)

    def _rotated(self, tokens: int) -> int:
        """`_update_concat`, which keeps a window less one, or `_update_in_place`."""
        if tokens > 1:
            return min(self.windowed, self.fed_rows, self.window - 1) + tokens
        if self.fed_rows < self.windowed or self.windowed >= self.window:
            return min(self.windowed, self.window)
        return self.windowed + min(STEP, self.window - self.fed_rows)

    def filtered(self, members: list[int], lengths: Sequence[int]) -> Buffer | None:
        """`filter`: a copy, cut to the least padding; a window is not cut."""
        if not members:
            return None
        cut = self.index - max(lengths[member] for member in members)
        return Buffer(members, self.rows - cut, self.index - cut, self.window, self.windowed, self.fed_rows)

    def extended(self, other: Buffer | None) -> Buffer:
        """`extend`."""
        if other is None:
            return self
        return Buffer(
            self.members + other.members,
            max(self.rows, other.rows),
            max(self.index, other.index),
            self.window,
            max(self.windowed, other.windowed),
            max(self.fed_rows, other.fed_rows),
        )

    def padded(self, whole: Buffer) -> int:
        """Rows of one of its caches while it is padded to the length of all; 0 if it has that length."""
        if (self.rows, self.index, self.windowed) == (whole.rows, whole.index, whole.windowed):
            return 0
        return len(self.members) * max(whole.rows, whole.windowed)


@dataclass
class Child:
    """The generation thread's loop over `sequences` of (prompt, completion) that arrive at given steps."""

    sequences: Sequence[tuple[int, int]]
    arrivals: Sequence[int]
    step: int
    decodes: int
    prompts: int
    window: int = 0
    layers: int = 10**18
    reading: Buffer | None = None
    writing: Buffer | None = None
    entries: dict[int, Buffer] = field(default_factory=dict)  # by prompt, in the prompt cache
    finished: dict[int, Buffer] = field(default_factory=dict)  # by ended sequence, in the prompt cache
    last_snapshot: Buffer | None = None  # a local variable of the server
    began: dict[int, int] = field(default_factory=dict)  # step of the first token
    ended: dict[int, int] = field(default_factory=dict)  # step of the last token
    peaks: list[int] = field(default_factory=list)  # by step

    def __post_init__(self) -> None:
        self.lengths = [0] * len(self.sequences)  # tokens in the caches
        self.left = [completion for _, completion in self.sequences]
        self.waiting = sorted(range(len(self.sequences)), key=lambda member: self.arrivals[member])

    def run(self) -> int:
        """Run to the end; returns the most rows that existed at once."""
        while self.waiting or self.reading or self.writing:
            if len(self.peaks) in self.arrivals:
                self.last_snapshot = None  # the variable now refers to the newcomer's entry
            self.peaks.append(0)
            self._write()
            self._join(len(self.peaks) - 1)
            self._cross()
            self._read()
        return max(self.peaks)

    def _look(self, *more: Buffer | None, copied: int = 0) -> None:
        held: Iterable[Buffer | None] = (
            self.reading,
            self.writing,
            self.last_snapshot,
            *self.entries.values(),
            *self.finished.values(),
            *more,
        )
        distinct = {id(buffer): buffer.size for buffer in held if buffer is not None}
        self.peaks[-1] = max(self.peaks[-1], sum(distinct.values()) + copied // self.layers)

    def _write(self) -> None:
        if self.writing is None:
            return
        before, self.writing = self.writing, self.writing.fed(1)
        for member in self.writing.members:
            self.lengths[member] += 1
            self.left[member] -= 1
        self._look(copied=_gathered(before, self.writing))
        ended = [member for member in self.writing.members if self.left[member] <= 0]
        for member in ended:
            self.finished[member] = self.writing
            self.ended[member] = len(self.peaks) - 1
            if not self.window or self.lengths[member] < self.window:  # its snapshot is a prefix: removed
                self.entries.pop(member, None)
        if ended:
            all_of_them = self.writing
            staying = [m for m in all_of_them.members if m not in ended]
            self.writing = all_of_them.filtered(staying, self.lengths)
            self._look(copied=_gathered(all_of_them, self.writing))

    def _join(self, now: int) -> None:
        running = len(self.writing.members) if self.writing else 0
        reading = len(self.reading.members) if self.reading else 0
        free = min(self.prompts - reading, max(self.decodes, self.prompts) - running)
        joining = [member for member in self.waiting if self.arrivals[member] <= now][: max(0, free)]
        if joining:
            self.waiting = [member for member in self.waiting if member not in joining]
            new = Buffer(joining, window=self.window)
            self.reading = self.reading.extended(new) if self.reading else new
            self._look()

    def _cross(self) -> None:
        """Let sequences whose prompt is read up to its last token begin to generate."""
        if self.reading is None:
            return
        ready = [m for m in self.reading.members if self.lengths[m] == self.sequences[m][0] - 1]
        if not ready:
            return
        new = self.reading.filtered(ready, self.lengths)
        assert new is not None
        whole = self.reading
        staying = [m for m in self.reading.members if m not in ready]
        self.reading = self.reading.filtered(staying, self.lengths)
        new = new.fed(1)
        for member in ready:
            self.lengths[member] += 1
            self.began[member] = len(self.peaks) - 1
        self._look(new, copied=_gathered(whole, new))
        old, self.writing = self.writing, self.writing.extended(new) if self.writing else new
        if old is not None:
            halves = (old, new)
            self._look(copied=sum(each.widest + each.padded(self.writing) for each in halves))

    def _read(self) -> None:
        if self.reading is None:
            return
        chunks = {m: min(self.step, self.sequences[m][0] - 1 - self.lengths[m]) for m in self.reading.members}
        if not max(chunks.values()):
            return
        self.reading = self.reading.fed(max(chunks.values()))
        for member, chunk in chunks.items():
            self.lengths[member] += chunk
            if self.lengths[member] == self.sequences[member][0] - 1:
                self.entries[member] = self.last_snapshot = self.reading
        self._look()


def _gathered(whole: Buffer, some: Buffer | None) -> int:
    """Rows of one more copy of a cache that is copied out of all, and then cut to size or grown."""
    if some is None:
        return 0
    kinds = ((whole.rows, some.rows), (whole.windowed, some.windowed))
    return len(some.members) * max(before if before != after else 0 for before, after in kinds)
