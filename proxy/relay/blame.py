"""Pure. Which requests a crash is blamed on, which must run alone, and which are refused for how long.

A crash with several requests in flight proves nothing, so it only makes suspects. A suspect runs alone, and a
crash with nothing else in flight decides: the second of one kind, or the third of any, puts the request into
quarantine. Completing clears it. A poisonous request is deterministic and dies the same way each time; a
machine in trouble does not.

Times are wall-clock seconds, since records outlive the proxy. Requests go by their fingerprints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from proxy.job import Job, Stage

#: All causes of death by lack of memory are one kind, since it is chance which allocation fails first.
MEMORY = "memory"

#: The first quarantine lasts this long; each further one of the same request is twice as long.
QUARANTINE_S = 600.0
#: No quarantine is longer.
LONGEST_QUARANTINE_S = 24 * 3600.0

#: A suspicion is dropped after this time if it was never tested, because the client did not come back.
FORGET_S = 24 * 3600.0

#: The number of records is limited to this: enough for many batches, and little to keep in a file.
MOST_RECORDS = 256

#: A rise of memory by more than this multiple of the prediction is no rounding error.
_UNDERESTIMATED = 1.25

#: This many crashes of one kind, the last with nothing else in flight, put a request into quarantine.
_SAME_KIND = 2
#: This many crashes of any kinds do so, too.
_ANY_KIND = 3

#: Later wall-clock times in a file are invalid.
_LATEST = 1e11


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """The crashes that one fingerprint is blamed for.

    Attributes:
        kinds: their kinds, oldest first.
        prefilling: it was in prefill each time, so after its first token it needs no isolation.
        sentences: how often it was put into quarantine.
        until: it is refused until then; 0 if it was never in quarantine.
    """

    kinds: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(min_length=1, max_length=8)]
    prefilling: bool
    prompt_tokens: Annotated[int, Field(ge=0, le=2**40)]
    last: Annotated[float, Field(ge=0, le=_LATEST)]
    sentences: Annotated[int, Field(ge=0, le=1000)] = 0
    until: Annotated[float, Field(ge=0, le=_LATEST)] = 0.0

    @property
    def memory(self) -> bool:
        """Whether most of its crashes were for lack of memory."""
        return Counter(self.kinds).most_common(1)[0][0] == MEMORY


class Isolation(Enum):
    """For how much of its run a request must have the child to itself."""

    NONE = auto()
    UNTIL_FIRST_TOKEN = auto()
    FULL = auto()


@dataclass(frozen=True, slots=True)
class CrashLedger:
    """All records, and `proven_tokens`: the length of the longest prompt that completed."""

    records: Annotated[Mapping[str, CrashRecord], Field(max_length=MOST_RECORDS)] = field(
        default_factory=lambda: MappingProxyType({})
    )
    proven_tokens: Annotated[int, Field(ge=0, le=2**40)] = 0

    def refused(self, fingerprint: str, now: float) -> CrashRecord | None:
        """The record for which the request is refused now; None if it is not."""
        record = self.records.get(fingerprint)
        return record if record is not None and now < record.until else None

    def isolation(self, fingerprint: str) -> Isolation:
        """How isolated it must run, if it is not refused."""
        record = self.records.get(fingerprint)
        if record is None:
            return Isolation.NONE
        return Isolation.UNTIL_FIRST_TOKEN if record.prefilling else Isolation.FULL

    def safe_tokens(self, record: CrashRecord) -> int:
        """The prompt length to suggest to the client of a request that was refused for its memory.

        The longest prompt that completed is known to be safe, but after a few small requests it would tell an
        agent to compact to nothing: hence at least half of the length that killed.
        """
        proven = min(self.proven_tokens, record.prompt_tokens - 1)
        return max(1, proven, record.prompt_tokens // 2)


def suspects(jobs: Sequence[Job], ledger: CrashLedger, *, memory: bool) -> frozenset[str]:
    """The fingerprints of the requests that one crash is blamed on."""
    # 1. Requests that were suspected before and not cleared since.
    known = {each.fingerprint for each in jobs if each.fingerprint in ledger.records}
    if known:
        return frozenset(known)
    # 2. Prefill is where a bad request meets the model first, and where memory rises fastest; a request that
    #    cost more than predicted has taken what was reserved for others.
    prefilling = {each.fingerprint for each in jobs if each.stage is Stage.PREFILL}
    costlier = underestimated(jobs) if memory else None
    if prefilling or costlier is not None:
        return frozenset(prefilling | ({costlier.fingerprint} if costlier else set()))
    # 3. In decode, the request that came last changed something; for lack of memory, also the largest one.
    last = max(jobs, key=_asked, default=None)
    largest = max(jobs, key=lambda each: each.fitted.prompt_tokens, default=None) if memory else None
    return frozenset(each.fingerprint for each in (last, largest) if each is not None)


def underestimated(jobs: Sequence[Job]) -> Job | None:
    """The request whose memory was predicted too low; None if the rise of memory does not show one.

    The rise since an admission was caused by that request or by later ones. So the culprit is the last
    request since whose admission memory rose by more than was predicted for it and all later ones together.
    """
    predicted = 0
    for each in sorted(jobs, key=_asked, reverse=True):
        if each.predicted_bytes is None or each.seen_bytes is None:
            return None
        predicted += each.predicted_bytes
        if each.seen_bytes > _UNDERESTIMATED * predicted:
            return each
    return None


def _asked(job: Job) -> float:
    """When it was given to the child."""
    return job.asked or job.arrived


def blame(ledger: CrashLedger, jobs: Sequence[Job], kind: str, now: float) -> CrashLedger:
    """The ledger after a crash of `kind` with these jobs at the child."""
    blamed = suspects(jobs, ledger, memory=kind == MEMORY)
    alone = len({each.fingerprint for each in jobs}) == 1
    records = dict(ledger.records)
    for each in jobs:
        if each.fingerprint in blamed:
            blamed -= {each.fingerprint}  # identical requests in one batch count as one crash
            records[each.fingerprint] = _blamed(records.get(each.fingerprint), each, kind, alone, now)
    return replace(ledger, records=fresh(records, now))


def cleared(ledger: CrashLedger, fingerprint: str, prompt_tokens: int) -> CrashLedger:
    """The ledger after this request completed."""
    proven = max(ledger.proven_tokens, prompt_tokens)
    records = {name: record for name, record in ledger.records.items() if name != fingerprint}
    return CrashLedger(MappingProxyType(records), proven)


def _blamed(before: CrashRecord | None, each: Job, kind: str, alone: bool, now: float) -> CrashRecord:
    kinds = (*(before.kinds if before else ()), kind)[-8:]
    record = CrashRecord(
        kinds=kinds,
        prefilling=each.stage is Stage.PREFILL and (before is None or before.prefilling),
        prompt_tokens=each.fitted.prompt_tokens,
        last=now,
        sentences=before.sentences if before else 0,
        until=before.until if before else 0.0,
    )
    return _quarantined(record, now) if alone and _proven(record, kind) else record


def _proven(record: CrashRecord, kind: str) -> bool:
    """A request that was in quarantine before and kills again needs no second proof."""
    same, all_ = record.kinds.count(kind), len(record.kinds)
    return same >= _SAME_KIND or all_ >= _ANY_KIND or record.sentences > 0


def _quarantined(record: CrashRecord, now: float) -> CrashRecord:
    length = min(QUARANTINE_S * 2.0**record.sentences, LONGEST_QUARANTINE_S)
    return replace(record, sentences=record.sentences + 1, until=now + length)


def fresh(records: Mapping[str, CrashRecord], now: float) -> Mapping[str, CrashRecord]:
    """The records that are not forgotten yet, at most the newest `MOST_RECORDS`."""
    found = [item for item in records.items() if now < max(item[1].last + FORGET_S, item[1].until)]
    found.sort(key=lambda item: item[1].last)
    return MappingProxyType(dict(found[-MOST_RECORDS:]))
