"""What deaths for want of memory have taught, kept in the state folder: the shell of supervisor/learned.py.

It holds for one model revision, one mlx and mlx-lm, one set of flags and one machine. With any of these
another, it is dropped, and the log says so.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy.config import Settings
from proxy.launch import server_flags
from supervisor import learned as law
from supervisor.generation import Death
from supervisor.learned import Learned, MemoryDeath
from supervisor.lifecycle import State
from supervisor.machine import total_memory
from supervisor.probing import model_digest, versions
from supervisor.records import read_json, write_json
from supervisor.saver import Saver
from supervisor.tasks import Tasks

log = logging.getLogger("mlxguard.limits")

FILE = "limits.json"

#: Work that is not yet in the file; what a proxy that is killed loses of it is no loss.
_UNWRITTEN_S = 300.0

Key = Mapping[str, str]


def key_of(settings: Settings, folder: Path) -> Key:
    """What learned limits hold for. `flags`: those that the settings fix, since the rest follows from them.

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
        self._unwritten_s = 0.0
        self._written = False
        self._tasks = Tasks()
        self._saver = Saver(self._tasks)
        self.learned = Learned()

    def take(self, key: Key) -> Learned:
        """What holds for `key`: as known, or as in the file; nothing, if that was reset meanwhile."""
        reset = self._written and self._file is not None and not self._file.exists()
        if self._key != key or reset:
            self._key, self.learned, self._written = key, Learned(), False
            self._read(key)
        return self.learned

    def planned(self, ceiling: int) -> None:
        """The next child runs under a ceiling of so many bytes."""
        self._ceiling = ceiling

    def died(self, death: Death) -> None:
        """Learn from a death, if it was for want of memory, under load, and telemetry says at how much."""
        if not death.memory or death.held is None or not self._ceiling or death.state is State.STARTING:
            return
        lesson = MemoryDeath(str(death.cause), death.held, self._ceiling, self._wall())
        self._change(law.lowered(self.learned, lesson))

    def worked(self, since: float) -> None:
        """A request has run well since then (`clock`). What ran beside it is counted once."""
        now = self._clock()
        seconds = now - max(since, self._counted_until)
        self._counted_until = now
        before, self.learned = self.learned, law.worked(self.learned, seconds)
        if self.learned.share != before.share:
            self._change(self.learned)
        elif self.learned is not before:
            self._unwritten_s += seconds
            if self._unwritten_s >= _UNWRITTEN_S:
                self._save()

    def document(self) -> dict[str, Any]:
        """For status: the share of the ceiling that holds and why. Seconds are of work."""
        learned = self.learned
        return {
            "share": round(learned.share, 4),
            "reason": learned.reason,
            "deaths": learned.deaths,
            "next_raise_s": None if learned.last is None else round(learned.stable_s - learned.worked_s),
        }

    async def stop(self) -> None:
        """Write what is known, and wait for it."""
        if self._unwritten_s:
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
        kept_for, learned = found
        changed = [name for name in key if kept_for.get(name) != key[name]]
        if changed:
            log.warning("learned_limits_dropped", extra={"changed": changed, "was": learned.reason})
            return
        self.learned, self._written = learned, True

    def _change(self, learned: Learned) -> None:
        self.learned = learned
        log.warning("learned_limits", extra={"share": round(learned.share, 4), "reason": learned.reason})
        self._save()

    def _save(self) -> None:
        self._unwritten_s = 0.0
        if self._file is None or self._key is None:
            return
        file, content = self._file, {"key": dict(self._key), "learned": law.to_json(self.learned)}
        self._saver.save(FILE, lambda: self._write(file, content))

    def _write(self, file: Path, content: Mapping[str, Any]) -> None:
        write_json(file, content)
        self._written = True


def read_limits(file: Path) -> tuple[Key, Learned] | None:
    """The file's content: for what, and what; None if there is none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of ours.
    """
    content = read_json(file)
    if content is None:
        return None
    key = content.get("key")
    if not isinstance(key, dict):
        raise ValueError("learned limits without their key")
    return key, law.from_json(content.get("learned", {}))
