"""What deaths and finished requests have taught about memory, and the model and machine that it applies to.

Runs the rules of `supervisor.memory_model.learned_ceiling`, and remembers the gate's corrections of the cost
model (`proxy.gate.corrections`). What was learned for another model, library, flag or machine is dropped, and
the log says so.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from proxy.config.settings import Settings
from proxy.gate.corrections import Corrections
from proxy.planning.learned_state import LearnedFile, StateSection
from proxy.planning.server_flags import server_flags
from supervisor.child.generation import Death
from supervisor.lifecycle.state_machine import State
from supervisor.machine.system import total_memory
from supervisor.machine.versions import versions
from supervisor.memory_model import learned_ceiling
from supervisor.memory_model.learned_ceiling import LearnedCeiling, MemoryDeath
from supervisor.tracing.client import model_digest

log = logging.getLogger("mlxguard.limits")

#: Seconds between two writes of what changes with every request; losing the last minutes on SIGKILL is
#: acceptable.
_SAVE_S = 300.0

Key = dict[str, str]


@dataclass(frozen=True, slots=True)
class StoredLimits:
    """The section of the learned state: the key that it applies to, and what was learned, in wall time."""

    key: Annotated[Key, Field(max_length=16)]
    learned: LearnedCeiling = field(default_factory=LearnedCeiling)
    corrections: Corrections = field(default_factory=Corrections)


LIMITS = StateSection("limits", TypeAdapter(StoredLimits), former="limits.json")


def key_of(settings: Settings, folder: Path) -> Key:
    """The key that learned limits apply to; of the flags, it has those that the settings fix.

    Raises:
        OSError: the model's files cannot be read.
    """
    upstream = settings.upstream
    flags = (*upstream.command, *server_flags(settings, folder)[2:])  # without --model FOLDER
    return {
        "model": model_digest(folder),
        **dict(version.split(" ") for version in versions()),
        "flags": " ".join((*flags, f"telemetry={upstream.telemetry}")),
        "machine": f"{sys.platform} {platform.machine()} {round(total_memory() / 2**30)} GiB",
    }


class LearnedLimits:
    """What has been learned for the current key.

    Args:
        file: the default keeps it in memory only.
        clock: monotonic seconds; `wall`: wall-clock seconds, since these outlive the process.
    """

    def __init__(
        self,
        file: LearnedFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = file or LearnedFile()
        self._clock = clock
        self._wall = wall
        self._key: Key | None = None
        self._ceiling = 0
        self._counted_until = 0.0
        self._saved_at = 0.0
        self._unsaved = False
        self.learned = LearnedCeiling()
        self.corrections = Corrections()

    def select(self, key: Key) -> LearnedCeiling:
        """Switch to `key`, reading the file if the key is new or the file was reset; returns what applies."""
        if self._key != key or self._file.removed(LIMITS):
            self._key = key
            self.learned, self.corrections = LearnedCeiling(), Corrections()
            self._load(key)
        return self.learned

    def set_ceiling(self, ceiling: int) -> None:
        """Note the ceiling, in bytes, of the child that runs or starts next."""
        self._ceiling = ceiling

    def record_death(self, death: Death) -> None:
        """Learn from a death from lack of memory under load, if telemetry reported how much was used."""
        starting = death.state is State.STARTING
        if death.memory and death.active_bytes is not None and self._ceiling and not starting:
            known = MemoryDeath(str(death.cause), death.active_bytes, self._ceiling, self._wall())
            self._change(learned_ceiling.lowered(self.learned, known))

    def record_work(self, since: float) -> None:
        """Count the time of a request that has run well since `since`; overlapping time counts once."""
        now = self._clock()
        seconds = now - max(since, self._counted_until)
        self._counted_until = now
        before, self.learned = self.learned, learned_ceiling.worked(self.learned, seconds)
        if self.learned.share != before.share:
            self._change(self.learned)
        elif self.learned is not before:
            self._save_later()

    def record_corrections(self, corrections: Corrections) -> None:
        """Remember the gate's corrections of the cost model."""
        self.corrections = corrections
        self._save_later()

    @property
    def factors(self) -> tuple[float, float]:
        """Factors on the predicted bytes, for one request alone and for several."""
        return self.corrections.factors(self._clock())

    def document(self) -> dict[str, Any]:
        """For status: the part of the ceiling that is used, and why. `next_raise_s` is in seconds of work."""
        learned = self.learned
        return {
            "ceiling_ratio": round(learned.share, 4),
            "reason": learned.reason,
            "deaths": learned.deaths,
            "cost_model_factors": self.factors,
            "next_raise_s": None if learned.last is None else round(learned.stable_s - learned.worked_s),
        }

    def save(self) -> None:
        """Have what is not saved yet written now."""
        if self._unsaved and self._key is not None:
            corrections = _shifted(self.corrections, self._wall() - self._clock())
            self._file.save(LIMITS, StoredLimits(self._key, self.learned, corrections))
        self._unsaved, self._saved_at = False, self._clock()

    def _load(self, key: Key) -> None:
        found = self._file.load(LIMITS)
        if found is None:
            return
        changed = [name for name in key if found.key.get(name) != key[name]]
        if changed:
            log.warning("learned_limits_dropped", extra={"changed": changed, "was": found.learned.reason})
            return
        self.learned = found.learned
        self.corrections = _shifted(found.corrections, self._clock() - self._wall())

    def _change(self, learned: LearnedCeiling) -> None:
        self.learned = learned
        extra = {"share": round(learned.share, 4), "reason": learned.reason}
        log.warning("learned_limits_changed", extra=extra)
        self._unsaved = True
        self.save()

    def _save_later(self) -> None:
        self._unsaved = True
        if self._clock() - self._saved_at >= _SAVE_S:
            self.save()


def _shifted(corrections: Corrections, shift: float) -> Corrections:
    """The corrections by another clock, which is `shift` seconds ahead."""
    both = (corrections.alone, corrections.together)
    return Corrections(*(replace(each, at=each.at + shift, outliers=()) for each in both))
