"""mlx_lm's batches step by step, in rows: who has which buffer, and what pins it. The judge of the law.

After generate.py (`BatchGenerator._next`) and models/cache.py (`BatchKVCache`, `BatchRotatingKVCache`) of
mlx-lm 0.32.2, with a prompt cache that has room for all. A buffer is its own object: it is there as long as
somebody holds it, and every copy is another. It stands for as many caches that grow as `layers` tells, and
as many with a window if there is one; what is copied is copied one cache after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from supervisor.memory_model.kv_cache import STEP, rounded


@dataclass(eq=False)
class Buffer:
    """`members` sequences of `rows` rows, filled up to `index`; tokens of each, padded on the left. Where
    there is a window, of `windowed` rows too, after `fed_rows` (`_offset`).
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
        """Of the one kind of cache or of the other."""
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

    def kept(self, members: list[int], lengths: Sequence[int]) -> Buffer | None:
        """`filter`: a copy, cut to the least padding; that of a window is not."""
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
        """What one of its caches takes as it is made as long as that of all; nothing if it is."""
        if (self.rows, self.index, self.windowed) == (whole.rows, whole.index, whole.windowed):
            return 0
        return len(self.members) * max(whole.rows, whole.windowed)


@dataclass
class Child:
    """The generation thread's loop over `sequences` of (prompt, completion), which arrive at these steps."""

    sequences: Sequence[tuple[int, int]]
    arrivals: Sequence[int]
    step: int
    decodes: int
    prompts: int
    window: int = 0
    layers: int = 10**18
    reading: Buffer | None = None
    writing: Buffer | None = None
    entries: dict[int, Buffer] = field(default_factory=dict)  # what the prompt cache has of each prompt
    finished: dict[int, Buffer] = field(default_factory=dict)  # and of each that has ended
    last_snapshot: Buffer | None = None  # a local variable of the server
    began: dict[int, int] = field(default_factory=dict)  # the step in which each had its first token
    ended: dict[int, int] = field(default_factory=dict)  # and its last
    peaks: list[int] = field(default_factory=list)  # of each step

    def __post_init__(self) -> None:
        self.lengths = [0] * len(self.sequences)  # tokens in the caches
        self.left = [completion for _, completion in self.sequences]
        self.waiting = sorted(range(len(self.sequences)), key=lambda member: self.arrivals[member])

    def run(self) -> int:
        """The most rows that were there at once."""
        while self.waiting or self.reading or self.writing:
            if len(self.peaks) in self.arrivals:
                self.last_snapshot = None  # the variable has what the prompt cache has of the newcomer
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
            if not self.window or self.lengths[member] < self.window:  # its snapshot is a prefix, and goes
                self.entries.pop(member, None)
        if ended:
            all_of_them = self.writing
            self.writing = all_of_them.kept([m for m in all_of_them.members if m not in ended], self.lengths)
            self._look(copied=_gathered(all_of_them, self.writing))

    def _join(self, now: int) -> None:
        running = len(self.writing.members) if self.writing else 0
        reading = len(self.reading.members) if self.reading else 0
        room = min(self.prompts - reading, max(self.decodes, self.prompts) - running)
        come = [member for member in self.waiting if self.arrivals[member] <= now][: max(0, room)]
        if come:
            self.waiting = [member for member in self.waiting if member not in come]
            new = Buffer(come, window=self.window)
            self.reading = self.reading.extended(new) if self.reading else new
            self._look()

    def _cross(self) -> None:
        """Whose prompt is read but for its last token goes over to writing."""
        if self.reading is None:
            return
        ready = [m for m in self.reading.members if self.lengths[m] == self.sequences[m][0] - 1]
        if not ready:
            return
        new = self.reading.kept(ready, self.lengths)
        assert new is not None
        whole = self.reading
        self.reading = self.reading.kept([m for m in self.reading.members if m not in ready], self.lengths)
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
    """One cache of those that are copied out of all, which is cut to size or grows then: a copy more."""
    if some is None:
        return 0
    kinds = ((whole.rows, some.rows), (whole.windowed, some.windowed))
    return len(some.members) * max(before if before != after else 0 for before, after in kinds)
