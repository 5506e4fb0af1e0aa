"""Counts deaths, attributes crashes to requests, and writes one report per crash to log and state folder.

The order matters: blame before any request goes on. `Supervisor` adds a death here in the same synchronous
step in which it became known, and the gateway's attribution (`CrashAttribution`) is called within that step.
The requests that wait on `Generation.died` are resumed by the event loop afterwards, so when one of them asks
whether it may be replayed, it is already known whether it is a suspect or in quarantine. Nothing on this way
may await. Advice follows from the attribution, and the report is written in a thread later.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from supervisor.child.attempt import Attempt
from supervisor.child.generation import Death
from supervisor.lifecycle.advice import advise
from supervisor.lifecycle.causes import Cause, Symptom
from supervisor.lifecycle.diagnosis import EVIDENCE_LINES
from supervisor.lifecycle.in_flight import InFlight
from supervisor.state.folder import StateFolder
from supervisor.state.saver import Saver

log = logging.getLogger("mlxguard.supervisor")

#: The advice for a death that a person or another program caused, usually on purpose.
_EXTERNAL_ADVICE = "Nothing, if you know who did it."

#: A report names at most this many requests; a batch has fewer.
_MAX_IN_FLIGHT = 64

#: Called once per unplanned death, before any waiting request resumes; returns the requests in flight.
CrashAttribution = Callable[[Death], Sequence[InFlight]]


class CrashReports:
    """All deaths since the start of the proxy, and the report of the last crash."""

    def __init__(self, folder: StateFolder, saver: Saver, attribute_crash: CrashAttribution) -> None:
        self._folder = folder
        self._saver = saver
        self._attribute_crash = attribute_crash
        self._ended: Counter[Cause] = Counter()
        self._unannounced: Death | None = None
        self._report: dict[str, Any] | None = None  # of the last crash, until a new child is ready
        self.last: Death | None = None  # unplanned only

    @property
    def by_cause(self) -> Mapping[Cause, int]:
        """Number of generations that ended, including planned restarts but not the final stop."""
        return MappingProxyType(dict(self._ended))

    def add(self, death: Death, symptom: Symptom, attempt: Attempt) -> None:
        """Count a death; report it, with its attribution and advice, if it was a crash."""
        self._unannounced = death
        if death.cause is not Cause.OWN_STOP:
            self._ended[death.cause] += 1
        if not death.planned:
            self._report_crash(death, symptom, attempt)

    def take_unannounced(self) -> Death | None:
        """The death that subscribers have not been told of yet, once."""
        death, self._unannounced = self._unannounced, None
        return death

    def note(self, what: str, **details: object) -> None:
        """Note in the report of the last crash what was done about it."""
        if self._report is not None:
            step = {"after_s": round(time.time() - self._report["time"], 3), "what": what, **details}
            self._report = {**self._report, "done": [*self._report["done"], step]}
            self._save(self._report)

    def close(self) -> None:
        """Note nothing more in the report of the last crash, which is over."""
        self._report = None

    def _report_crash(self, death: Death, symptom: Symptom, attempt: Attempt) -> None:
        in_flight = self._attribute(death)
        self.last = death
        try:
            self._write_report(death, symptom, attempt, in_flight)
        except Exception:  # the report is lost; the restart goes on
            log.exception("crash_report_failed", extra={"cause": death.cause, "symptom": symptom})

    def _write_report(
        self, death: Death, symptom: Symptom, attempt: Attempt, in_flight: Sequence[InFlight]
    ) -> None:
        advice = _EXTERNAL_ADVICE if death.external else advise(death.cause, attempt.facts(in_flight))
        death = dataclasses.replace(death, advice=advice)
        self.last = death
        what = {"symptom": symptom, **dataclasses.asdict(death)}
        last_lines = what.pop("last_lines")
        log.error("child_died", extra={**what, "in_flight": len(in_flight)})
        now = time.time()
        self._report = {
            "id": self._folder.crash_id(death.generation, now),
            "time": now,
            **what,
            "in_flight": [dataclasses.asdict(work) for work in in_flight[:_MAX_IN_FLIGHT]],
            "child": attempt.description(),
            "last_lines": last_lines[-EVIDENCE_LINES:],
            "done": [],
        }
        self._save(self._report)

    def _attribute(self, death: Death) -> Sequence[InFlight]:
        """Ask the gateway; an error there must not keep the child down."""
        try:
            return self._attribute_crash(death)
        except Exception:  # any error is logged, and the restart goes on
            log.exception("crash_attribution_failed")
            return ()

    def _save(self, report: Mapping[str, Any]) -> None:
        self._saver.save(report["id"], lambda: self._folder.write_crash(report))
