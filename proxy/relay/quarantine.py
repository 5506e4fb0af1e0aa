"""After a crash: what was in flight, whom it is blamed on, who runs alone, and who is refused for a time.

The shell of core.blame. What it knows is kept in the state folder, so that a killer is known to the next
proxy as well. Requests go by their fingerprints; no text is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from proxy.errors import PromptTooLong, Quarantined
from proxy.job import Job, Stage
from proxy.planning.learned_limits import LearnedLimits
from proxy.relay import blame
from proxy.relay.blame import MEMORY, Accused, CrashLedger, CrashRecord, Isolation
from supervisor.aio import Tasks
from supervisor.child.generation import Death
from supervisor.lifecycle.in_flight import InFlight
from supervisor.state.json_file import read_json, write_json
from supervisor.state.saver import Saver

log = logging.getLogger("mlxguard.inquest")

FILE = "suspects.json"

#: A prompt proves something new if it is so many times as long as the longest so far: each turn of a session
#: is a little longer than the one before, and what is proven is written to disk.
_PROVES_MORE = 1.05
#: A request is replayed twice at most, so the third death would be its last.
_DEATHS_IN_COMPANY = 2


#: Characters of a fingerprint that tell requests apart, and nothing of what is in them.
_SHOWN = 8


class Quarantine:
    """Everything that is known of requests that may have killed the child.

    Args:
        running: the requests of this moment.
        file: where the ledger is kept; None keeps it in memory only.
        model: what is served; what killed one model says nothing of another.
        errands: how many requests of our own the child has now; a death beside one is nobody's doing.
        limits: told of deaths and of work done, as both teach what memory there is.
        wall: wall-clock seconds, as sentences outlive the process.
    """

    def __init__(
        self,
        running: Callable[[], Iterable[Job]],
        file: Path | None,
        *,
        model: str = "",
        errands: Callable[[], int] = lambda: 0,
        limits: LearnedLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._running = running
        self._file = file
        self._model = model
        self._errands = errands
        self._limits = limits or LearnedLimits()
        self._clock = clock
        self._wall = wall
        self._ledger = CrashLedger()
        self._tasks = Tasks()
        self._saver = Saver(self._tasks)

    def load(self) -> None:
        """Take over what an earlier proxy knew. A file that cannot be read is as good as none."""
        if self._file is None:
            return
        try:
            content = read_json(self._file)
            if content is not None and content.get("model") == self._model:
                self._ledger = blame.from_json(content, self._wall())
        except (OSError, ValueError) as error:
            log.warning("suspects_not_read", extra={"error": str(error)})

    async def stop(self) -> None:
        """Wait until everything is written."""
        await self._tasks.finish()

    def hold(self, death: Death) -> Sequence[InFlight]:
        """Blame one death, and tell what was in flight. Called before any of those requests goes on."""
        jobs = [job for job in self._running() if _at_work(job, death.generation)]
        before = self._ledger
        self._limits.died(death)
        if not death.outside and not self._errands():
            kind = MEMORY if death.memory else str(death.cause)
            accused = [_accused(job) for job in jobs]
            self._change(blame.blame(before, accused, kind, self._wall()))
        work = [self._describe(job, before) for job in jobs]
        for each in work:
            if each.refused_s is not None:
                log.warning("quarantined", extra={"fingerprint": each.fingerprint, "for_s": each.refused_s})
        return work

    def solitude(self, job: Job) -> Isolation:
        """How much of its next run `job` must have the child for itself.

        Raises:
            PromptTooLong: it has killed by memory and is refused, with a size that is safe.
            Quarantined: it has killed otherwise and is refused.
        """
        if self._ledger.records:
            record = self._ledger.refused(job.fingerprint, self._wall())
            if record is not None:
                raise self._refusal(job, record)
            solitude = self._ledger.solitude(job.fingerprint)
            if solitude is not Isolation.NONE:
                return solitude
        # Who has endured two deaths must not be there at a third that another causes.
        return Isolation.UNTIL_CONTENT if job.answer.attempts >= _DEATHS_IN_COMPANY else Isolation.NONE

    def completed(self, job: Job) -> None:
        """`job` has run to its end: nothing is held against it any more."""
        self._limits.worked(job.asked or job.arrived)
        tokens = job.fitted.prompt_tokens
        if self._ledger.records and job.fingerprint in self._ledger.records:
            log.info("suspect_cleared", extra={"fingerprint": job.fingerprint})
        elif tokens <= self._ledger.proven_tokens * _PROVES_MORE:
            return
        name = job.fingerprint if self._ledger.records else ""
        self._change(blame.cleared(self._ledger, name, tokens))

    def suspects(self) -> list[dict[str, Any]]:
        """For status, the newest first. Wall-clock seconds; `until` is None for who may run, if alone."""
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

    def _refusal(self, job: Job, record: CrashRecord) -> PromptTooLong | Quarantined:
        if not record.memory:
            return Quarantined()
        return PromptTooLong(
            prompt_tokens=job.fitted.prompt_tokens,
            max_tokens=job.fitted.max_tokens,
            limit=self._ledger.safe_tokens(record),
            param="messages" if job.request.is_chat else "prompt",
        )

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
        if self._file is not None:
            file, content = self._file, {"model": self._model, **blame.to_json(ledger)}
            self._saver.save(FILE, lambda: write_json(file, content))


def _at_work(job: Job, generation: int) -> bool:
    """Whether the child can have died of it: a suspect alone that has not reached it yet is innocent."""
    running = job.stage in (Stage.PREFILL, Stage.DECODE)
    return running and job.generation == generation and job.asked is not None


def _accused(job: Job) -> Accused:
    return Accused(
        job.fingerprint,
        job.fitted.prompt_tokens,
        job.stage is Stage.PREFILL,
        job.asked or job.arrived,
        job.predicted_bytes,
        job.seen_bytes,
    )
