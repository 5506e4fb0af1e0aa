"""Pure. The memory of one child over the last minute, for diagnosis and crash reports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Any

from supervisor.lifecycle.diagnosis import MachinePressure

#: Seconds between two samples, and seconds that the history covers.
INTERVAL_S = 0.5
LENGTH_S = 60.0

#: Samples of this many seconds before a death say something about it. The system takes a moment to kill a
#: process, and much of the memory is free again at once.
_JUST_BEFORE_S = 5.0


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Sizes in bytes at one moment; None where unknown. `at`: monotonic seconds.

    `free`: available on the whole machine without swapping. `footprint`: the child, measured from outside.
    The rest is reported by MLX inside the child; `card_free` is what a GPU with its own memory has left.
    """

    at: float
    free: int | None
    footprint: int | None = None
    active: int | None = None
    peak: int | None = None
    cache: int | None = None
    card_free: int | None = None


class MemoryHistory:
    """The samples of the last minute."""

    def __init__(self) -> None:
        self._samples: deque[MemorySample] = deque(maxlen=round(LENGTH_S / INTERVAL_S))

    def add(self, sample: MemorySample) -> None:
        self._samples.append(sample)

    def last(self) -> MemorySample | None:
        return self._samples[-1] if self._samples else None

    def peak(self) -> int | None:
        """The most bytes that MLX had active or, without telemetry, the largest footprint."""
        inside = [sample.peak for sample in self._samples if sample.peak]
        outside = [sample.footprint for sample in self._samples if sample.footprint]
        return max(inside or outside, default=None)

    def recent_active(self, now: float) -> int | None:
        """The most bytes that MLX had active in the last seconds; None without telemetry.

        MLX's own peak counts if it rose in these seconds, since it includes what came between two samples.
        """
        recent = [s for s in self._samples if now - s.at <= _JUST_BEFORE_S and s.active is not None]
        if not recent:
            return None
        active, peaks = [s.active or 0 for s in recent], [s.peak or 0 for s in recent]
        earlier = [s.peak or 0 for s in self._samples if now - s.at > _JUST_BEFORE_S]
        return max(*active, *peaks) if max(peaks) > max(earlier, default=0) else max(active)

    def other_programs(self, card_total: int) -> int | None:
        """Bytes of the GPU's own memory that other programs, and CUDA itself, used at the end."""
        last = self.last()
        if last is None or last.card_free is None or last.active is None or last.cache is None:
            return None
        return max(0, card_total - last.card_free - last.active - last.cache)

    def other_growth(self, free_before: int | None) -> int | None:
        """Bytes of RAM that other programs took since `free_before`, measured before the child's start."""
        last = self.last()
        if free_before is None or last is None or last.footprint is None or last.free is None:
            return None
        return max(0, free_before - last.footprint - last.free)

    def pressure(self, now: float, total: int, system_kills: int | None) -> MachinePressure:
        """How short of memory the machine was at the death. `system_kills`: since the launch."""
        recent = [s.free for s in self._samples if now - s.at <= _JUST_BEFORE_S and s.free is not None]
        return MachinePressure(system_kills, min(recent) / total if recent else None)

    def table(self, now: float) -> dict[str, Any]:
        """One row per sample for a report, oldest first; ages in seconds before `now`."""
        sizes = [field.name for field in fields(MemorySample)[1:]]
        rows = [[round(now - s.at, 1), *(getattr(s, name) for name in sizes)] for s in self._samples]
        return {"columns": ["age_s", *sizes], "rows": rows}
