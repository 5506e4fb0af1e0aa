"""mlx_lm's batches step by step, in rows: who has which buffer, and what pins it. The judge of the law.

After generate.py (`BatchGenerator._next`) and models/cache.py (`BatchKVCache`) of mlx-lm 0.32.2, for caches
that grow, with a prompt cache that has room for all. A buffer is its own object: it is there as long as
somebody holds it, and every copy is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from supervisor.cost import STEP, rounded


@dataclass(eq=False)
class Buffer:
    """`members` sequences of `rows` rows, filled up to `index`; tokens of each, padded on the left."""

    members: list[int]
    rows: int = 0
    index: int = 0

    @property
    def size(self) -> int:
        return len(self.members) * self.rows

    def fed(self, tokens: int) -> Buffer:
        """`update_and_fetch`."""
        rows = self.rows
        if self.index + tokens > rows:
            rows = (self.index if self.index % STEP else rows) + rounded(tokens)
        return Buffer(self.members, rows, self.index + tokens)

    def kept(self, members: list[int], lengths: Sequence[int]) -> Buffer | None:
        """`filter`: a copy, cut to the least padding."""
        if not members:
            return None
        cut = self.index - max(lengths[member] for member in members)
        return Buffer(members, self.rows - cut, self.index - cut)

    def extended(self, other: Buffer | None) -> Buffer:
        """`extend`."""
        if other is None:
            return self
        members = self.members + other.members
        return Buffer(members, max(self.rows, other.rows), max(self.index, other.index))


@dataclass
class Child:
    """The generation thread's loop over `sequences` of (prompt, completion), which arrive at these steps."""

    sequences: Sequence[tuple[int, int]]
    arrivals: Sequence[int]
    step: int
    decodes: int
    prompts: int
    reading: Buffer | None = None
    writing: Buffer | None = None
    entries: dict[int, Buffer] = field(default_factory=dict)  # what the prompt cache has of each
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

    def _look(self, *more: Buffer | None) -> None:
        held: Iterable[Buffer | None] = (
            self.reading,
            self.writing,
            self.last_snapshot,
            *self.entries.values(),
            *more,
        )
        distinct = {id(buffer): buffer.size for buffer in held if buffer is not None}
        self.peaks[-1] = max(self.peaks[-1], sum(distinct.values()))

    def _write(self) -> None:
        if self.writing is None:
            return
        self.writing = self.writing.fed(1)
        for member in self.writing.members:
            self.lengths[member] += 1
            self.left[member] -= 1
        self._look()
        ended = [member for member in self.writing.members if self.left[member] <= 0]
        for member in ended:  # its own snapshot is a prefix of it, and goes
            self.entries[member] = self.writing
            self.ended[member] = len(self.peaks) - 1
        if ended:
            self.writing = self.writing.kept(
                [m for m in self.writing.members if m not in ended], self.lengths
            )
            self._look()

    def _join(self, now: int) -> None:
        running = len(self.writing.members) if self.writing else 0
        reading = len(self.reading.members) if self.reading else 0
        room = min(self.prompts - reading, max(self.decodes, self.prompts) - running)
        come = [member for member in self.waiting if self.arrivals[member] <= now][: max(0, room)]
        if come:
            self.waiting = [member for member in self.waiting if member not in come]
            new = Buffer(come)
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
        self.reading = self.reading.kept([m for m in self.reading.members if m not in ready], self.lengths)
        new = new.fed(1)
        for member in ready:
            self.lengths[member] += 1
            self.began[member] = len(self.peaks) - 1
        self._look(new)
        self.writing = self.writing.extended(new) if self.writing else new
        self._look()

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
