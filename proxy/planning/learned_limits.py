"""What deaths and finished requests have taught of memory, kept in the state folder.

The shell of supervisor/memory_model/learned_ceiling.py, and the memory of the gate's corrections
(core/learning.py). What was learned for another model, library, flag or machine is dropped, and the log says
so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.gate.corrections import Corrections
from proxy.planning.limits_file import FILE, Key, StoredLimits, read_limits, to_json
from supervisor.aio import Tasks
from supervisor.child.generation import Death
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model import learned_ceiling
from supervisor.memory_model.learned_ceiling import LearnedCeiling, MemoryDeath
from supervisor.state.json_file import write_json
from supervisor.state.saver import Saver

log = logging.getLogger("mlxguard.limits")

#: What changes with every request is written this often; what a proxy that is killed loses of it is no loss.
_SAVE_S = 300.0


class LearnedLimits:
    """What holds now, for this key.

    Args:
        file: None keeps it in memory only.
        clock: monotonic seconds; `wall`: wall-clock seconds, as it outlives the process.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._clock = clock
        self._wall = wall
        self._key: Key | None = None
        self._ceiling = 0
        self._counted_until = 0.0
        self._saved_at = 0.0
        self._unwritten = False
        self._written = False
        self._tasks = Tasks()
        self._saver = Saver(self._tasks)
        self.learned = LearnedCeiling()
        self.corrections = Corrections()

    def take(self, key: Key) -> LearnedCeiling:
        """What holds for `key`: as known, or as in the file; nothing, if that was reset meanwhile."""
        reset = self._written and self._file is not None and not self._file.exists()
        if self._key != key or reset:
            self._key, self._written = key, False
            self.learned, self.corrections = LearnedCeiling(), Corrections()
            self._read(key)
        return self.learned

    def planned(self, ceiling: int) -> None:
        """The child runs under a ceiling of so many bytes, or the next one will."""
        self._ceiling = ceiling

    def died(self, death: Death) -> None:
        """Learn from a death, if it was for want of memory, under load, and telemetry says at how much."""
        if not death.memory or death.held is None or not self._ceiling or death.state is State.STARTING:
            return
        lesson = MemoryDeath(str(death.cause), death.held, self._ceiling, self._wall())
        self._change(learned_ceiling.lowered(self.learned, lesson))

    def worked(self, since: float) -> None:
        """A request has run well since then (`clock`). What ran beside it is counted once."""
        now = self._clock()
        seconds = now - max(since, self._counted_until)
        self._counted_until = now
        before, self.learned = self.learned, learned_ceiling.worked(self.learned, seconds)
        if self.learned.share != before.share:
            self._change(self.learned)
        elif self.learned is not before:
            self._save_some_day()

    def corrected(self, corrections: Corrections) -> None:
        """The gate has learned more of the law."""
        self.corrections = corrections
        self._save_some_day()

    @property
    def factors(self) -> tuple[float, float]:
        """What the law's bytes are multiplied by, for one alone and for several."""
        return self.corrections.factors(self._clock())

    def document(self) -> dict[str, Any]:
        """For status: the share of the ceiling that holds and why. Seconds are of work."""
        learned = self.learned
        return {
            "share": round(learned.share, 4),
            "reason": learned.reason,
            "deaths": learned.deaths,
            "cost_factors": self.factors,
            "next_raise_s": None if learned.last is None else round(learned.stable_s - learned.worked_s),
        }

    async def stop(self) -> None:
        """Write what is known, and wait for it."""
        if self._unwritten:
            self._save()
        await self._tasks.finish()

    def _read(self, key: Key) -> None:
        try:
            found = None if self._file is None else read_limits(self._file)
        except (OSError, ValueError) as error:
            log.warning("learned_limits_not_read", extra={"error": str(error)})
            return
        if found is None:
            return
        changed = [name for name in key if found.key.get(name) != key[name]]
        if changed:
            log.warning("learned_limits_dropped", extra={"changed": changed, "was": found.learned.reason})
            return
        self.learned, self._written = found.learned, True
        self.corrections = _aged(found.corrections, self._clock() - self._wall())

    def _change(self, learned: LearnedCeiling) -> None:
        self.learned = learned
        log.warning("learned_limits", extra={"share": round(learned.share, 4), "reason": learned.reason})
        self._save()

    def _save_some_day(self) -> None:
        self._unwritten = True
        if self._clock() - self._saved_at >= _SAVE_S:
            self._save()

    def _save(self) -> None:
        self._unwritten, self._saved_at = False, self._clock()
        if self._file is None or self._key is None:
            return
        corrections = _aged(self.corrections, self._wall() - self._clock())
        file, content = self._file, to_json(StoredLimits(self._key, self.learned, corrections))
        self._saver.save(FILE, lambda: self._write(file, content))

    def _write(self, file: Path, content: Mapping[str, Any]) -> None:
        write_json(file, content)
        self._written = True


def _aged(corrections: Corrections, shift: float) -> Corrections:
    """The same by another clock, which is `shift` seconds ahead."""
    return Corrections(
        *(replace(each, at=each.at + shift) for each in (corrections.alone, corrections.together))
    )
