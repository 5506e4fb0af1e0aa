"""What has ended and why: counts, the last crash, one report per crash in the log and the state folder."""

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

#: For what somebody did to it, on purpose as a rule.
_IF_KNOWN = "Nothing, if you know who did it."

#: A report names this many requests at most; a batch has fewer.
_MOST_AT_WORK = 64


class CrashReports:
    """All deaths since the start of the proxy."""

    def __init__(self, records: StateFolder, saver: Saver, inquest: Quarantine) -> None:
        self._records = records
        self._saver = saver
        self._inquest = inquest
        self._ended: Counter[Cause] = Counter()
        self._untold: Death | None = None
        self._report: dict[str, Any] | None = None  # of the last crash, until its child is replaced
        self.last: Death | None = None  # of a kind that was no plan of ours

    @property
    def by_cause(self) -> Mapping[Cause, int]:
        """How many generations ended, planned restarts included, the final stop left out."""
        return MappingProxyType(dict(self._ended))

    def add(self, death: Death, symptom: Symptom, attempt: Attempt) -> None:
        self._untold = death
        if death.cause is not Cause.OWN_STOP:
            self._ended[death.cause] += 1
        if not death.own:
            self._examine(death, symptom, attempt)

    def take_untold(self) -> Death | None:
        """The death that subscribers have not heard of; each is told once."""
        death, self._untold = self._untold, None
        return death

    def done(self, what: str, **details: object) -> None:
        """Note in the report of the last crash what was done about it."""
        if self._report is not None:
            step = {"after_s": round(time.time() - self._report["time"], 3), "what": what, **details}
            self._report = {**self._report, "done": [*self._report["done"], step]}
            self._save(self._report)

    def close(self) -> None:
        """The last crash is over: what comes now has nothing to do with it."""
        self._report = None

    def _examine(self, death: Death, symptom: Symptom, attempt: Attempt) -> None:
        at_work = self._ask(death)
        advice = _IF_KNOWN if death.outside else advise(death.cause, attempt.facts(at_work))
        death = dataclasses.replace(death, advice=advice)
        self.last = death
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
        log.error("child_died", extra={**what, "in_flight": len(at_work)})
        now = time.time()
        self._report = {
            "id": self._records.crash_id(death.generation, now),
            "time": now,
            **what,
            "outside": death.outside,
            "in_flight": [dataclasses.asdict(work) for work in at_work[:_MOST_AT_WORK]],
            "child": attempt.description(),
            "last_lines": death.last_lines[-EVIDENCE_LINES:],
            "done": [],
        }
        self._save(self._report)

    def _ask(self, death: Death) -> Sequence[InFlight]:
        """A fault of the gateway's must not keep the child down."""
        try:
            return self._inquest(death)
        except Exception:  # whatever it is, it is told, and the restart goes on
            log.exception("inquest_failed")
            return ()

    def _save(self, report: Mapping[str, Any]) -> None:
        self._saver.save(report["id"], lambda: self._records.write_crash(report))


#: Asked once per death that was no plan of ours, before anybody who waits for an answer hears of it.
Quarantine = Callable[[Death], Sequence[InFlight]]


def nobody(death: Death) -> Sequence[InFlight]:
    """For a supervisor without a gateway."""
    del death
    return ()
