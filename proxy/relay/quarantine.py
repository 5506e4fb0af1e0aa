"""Attributes crashes to requests, isolates suspects, and refuses requests in quarantine.

blame.py decides. Its ledger is kept in the state folder, so that a request that kills is known to the next
proxy, too. Requests go by their fingerprints; no text is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from proxy.errors import Quarantined
from proxy.job import Job, Stage
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import LearnedFile, StateSection
from proxy.relay import blame
from proxy.relay.blame import MEMORY, CrashLedger, Isolation
from supervisor.child.generation import Death
from supervisor.lifecycle.in_flight import InFlight

log = logging.getLogger("mlxguard.quarantine")

#: A completed prompt is recorded if it is longer than the longest so far by this factor: each turn of a
#: session is a little longer than the one before, and each record is written to disk.
_PROVES_MORE = 1.05
#: After this many deaths a request runs isolated: it is replayed twice at most, so a third would be its last.
_DEATHS_IN_COMPANY = 2
#: Characters of a fingerprint that status shows: enough to tell requests apart, without their content.
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class StoredLedger(CrashLedger):
    """The section of the learned state: the ledger, and the model that it applies to."""

    model: Annotated[str, Field(max_length=4096)] = ""


SUSPECTS = StateSection("suspects", TypeAdapter(StoredLedger), former="suspects.json")


class Quarantine:
    """What is known of requests that may have killed the child.

    Args:
        model: the model that is served; a ledger of another model is ignored.
        internal_requests: how many the child has now; a death while it has one is blamed on no request.
        limits: told of deaths and of work done, as the memory ceiling is learned from both.
        wall: wall-clock seconds, since quarantines outlive the process.
    """

    def __init__(
        self,
        running: Callable[[], Iterable[Job]],
        file: LearnedFile,
        *,
        model: str = "",
        internal_requests: Callable[[], int],
        limits: LearnedLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._running = running
        self._file = file
        self._model = model
        self._internal_requests = internal_requests
        self._limits = limits or LearnedLimits()
        self._clock = clock
        self._wall = wall
        self._ledger = CrashLedger()

    def load(self) -> None:
        """Take over what an earlier proxy knew of this model's requests."""
        stored = self._file.load(SUSPECTS)
        if stored is not None and stored.model == self._model:
            self._ledger = CrashLedger(blame.fresh(stored.records, self._wall()), stored.proven_tokens)

    def attribute(self, death: Death) -> Sequence[InFlight]:
        """Attribute a death, and return what was in flight. Called before any of those requests goes on."""
        jobs = [job for job in self._running() if _at_work(job, death.generation)]
        before = self._ledger
        if not death.unaccounted:
            self._limits.record_death(death)
        if not death.external and not death.unaccounted and not self._internal_requests():
            kind = MEMORY if death.memory else str(death.cause)
            self._change(blame.blame(before, jobs, kind, self._wall()))
        work = [self._describe(job, before) for job in jobs]
        for each in work:
            if each.refused_s is not None:
                log.warning("quarantined", extra={"fingerprint": each.fingerprint, "for_s": each.refused_s})
        return work

    def isolation(self, job: Job) -> Isolation:
        """For how much of its next run `job` must have the child to itself.

        Raises:
            PromptTooLong: it is refused since it killed the child for lack of memory; names a safe length.
            Quarantined: it is refused since it killed the child in another way.
        """
        if self._ledger.records:
            record = self._ledger.refused(job.fingerprint, self._wall())
            if record is not None:
                raise job.too_long(self._ledger.safe_tokens(record)) if record.memory else Quarantined()
            isolation = self._ledger.isolation(job.fingerprint)
            if isolation is not Isolation.NONE:
                return isolation
        # A request that endured two deaths must not be there at a third that another request causes.
        return Isolation.UNTIL_FIRST_TOKEN if job.answer.attempts >= _DEATHS_IN_COMPANY else Isolation.NONE

    def completed(self, job: Job) -> None:
        """Clear `job`, which has run to its end."""
        self._limits.record_work(job.asked or job.arrived)
        tokens = job.fitted.prompt_tokens
        if self._ledger.records and job.fingerprint in self._ledger.records:
            log.info("suspect_cleared", extra={"fingerprint": job.fingerprint})
        elif tokens <= self._ledger.proven_tokens * _PROVES_MORE:
            return
        name = job.fingerprint if self._ledger.records else ""
        self._change(blame.cleared(self._ledger, name, tokens))

    def suspects(self) -> list[dict[str, Any]]:
        """For status, the newest first. In wall-clock seconds; `until` is None unless it is refused now."""
        now = self._wall()
        records = sorted(self._ledger.records.items(), key=lambda item: item[1].last, reverse=True)
        return [
            {
                "fingerprint": fingerprint[:_SHOWN],
                "why": record.kinds,
                "last": record.last,
                "until": record.until if now < record.until else None,
                "prompt_tokens": record.prompt_tokens,
            }
            for fingerprint, record in records
        ]

    def _describe(self, job: Job, before: CrashLedger) -> InFlight:
        now, wall = self._clock(), self._wall()
        known, record = before.records.get(job.fingerprint), self._ledger.records.get(job.fingerprint)
        refused = self._ledger.refused(job.fingerprint, wall)
        return InFlight(
            answer_id=job.answer.id,
            fingerprint=job.fingerprint,
            prompt_tokens=job.fitted.prompt_tokens,
            max_tokens=job.fitted.max_tokens,
            completion_tokens=job.completion_tokens,
            phase=job.stage.value,
            progress=job.seen.progress if job.seen else None,
            attempts=job.answer.attempts,
            running_s=round(now - (job.asked or now), 3),
            predicted_bytes=job.predicted_bytes,
            seen_bytes=job.seen_bytes,
            suspect=record is not known,
            refused_s=None if refused is None else round(refused.until - wall, 1),
        )

    def _change(self, ledger: CrashLedger) -> None:
        if ledger == self._ledger:
            return
        self._ledger = ledger
        self._file.save(SUSPECTS, StoredLedger(dict(ledger.records), ledger.proven_tokens, self._model))


def _at_work(job: Job, generation: int) -> bool:
    """Whether the child can have died of it: an isolated suspect that has not reached it yet cannot."""
    running = job.stage in (Stage.PREFILL, Stage.DECODE)
    return running and job.generation == generation and job.asked is not None
