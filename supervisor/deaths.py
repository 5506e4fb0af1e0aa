"""What has ended and why: counts, the last crash, one report per crash in the log and the state folder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from supervisor.diagnosis import Cause, Symptom
from supervisor.generation import Death
from supervisor.records import Records
from supervisor.tasks import Tasks

log = logging.getLogger("mlxguard.supervisor")


class Deaths:
    """All deaths since the start of the proxy."""

    def __init__(self, records: Records, tasks: Tasks) -> None:
        self._records = records
        self._tasks = tasks
        self._ended: Counter[Cause] = Counter()
        self._untold: Death | None = None
        self.last: Death | None = None  # of a kind that was no plan of ours

    @property
    def by_cause(self) -> Mapping[Cause, int]:
        """How many generations ended, planned restarts included, the final stop left out."""
        return MappingProxyType(dict(self._ended))

    def add(self, death: Death, symptom: Symptom) -> None:
        self._untold = death
        if death.cause is not Cause.OWN_STOP:
            self._ended[death.cause] += 1
        if not death.own:
            self.last = death
            self._report(death, symptom)

    def take_untold(self) -> Death | None:
        """The death that subscribers have not heard of; each is told once."""
        death, self._untold = self._untold, None
        return death

    def _report(self, death: Death, symptom: Symptom) -> None:
        what = {
            "generation": death.generation,
            "cause": death.cause,
            "symptom": symptom,
            "explanation": death.explanation,
            "advice": death.advice,
            "exit_code": death.exit_code,
            "signal": death.signal,
            "state": death.state,
        }
        log.error("child_died", extra=what)
        report = {**what, "time": time.time(), "last_lines": death.last_lines}
        self._tasks.start(self._write(report), "crash-report")

    async def _write(self, report: dict[str, object]) -> None:
        """In a thread, since a slow disk must not hold up the restart."""
        await asyncio.to_thread(self._records.write_crash, report)
