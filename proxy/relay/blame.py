"""Whom a crash is blamed on, who must run alone, and who is refused for how long (pure).

A crash in company proves nothing, so it only makes suspects. Suspects run alone, and a crash with nothing
else in flight decides: the second of one kind, or the third of any, is a sentence. Whoever completes is
cleared. Poison is deterministic and dies the same way each time; a machine in trouble does not.

Times are wall-clock seconds, since all this outlives the proxy. Requests go by their fingerprints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Any

#: All that can end a server for want of memory is one kind: which allocation fails first is chance.
MEMORY = "memory"

#: The first sentence; each further one is twice as long.
SENTENCE_S = 600.0
LONGEST_SENTENCE_S = 24 * 3600.0

#: A suspicion that was never tested, since its client did not come back, is dropped after this.
FORGET_S = 24 * 3600.0

#: Enough for any batch many times over, and little to keep in a file.
MOST_RECORDS = 256

#: A rise of memory so many times what was foretold is no matter of rounding.
_DEARER = 1.25

_SAME_KIND = 2
_ANY_KIND = 3


@dataclass(frozen=True, slots=True)
class Accused:
    """A request that the child was working on when it died.

    Attributes:
        prefilling: its first token had not come.
        asked: when it was given to the child; larger is later.
        predicted: bytes that were reserved for it; None is not known.
        seen: bytes by which the child's memory rose since it was let in, whoever took them.
    """

    fingerprint: str
    prompt_tokens: int
    prefilling: bool
    asked: float
    predicted: int | None = None
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """What is held against one fingerprint.

    Attributes:
        kinds: the kinds of the crashes it is blamed for, oldest first.
        prefilling: it was in prefill each time, so its first token clears it of what it is blamed for.
        until: it is refused until then; 0 if it was never sentenced.
    """

    kinds: tuple[str, ...]
    prefilling: bool
    prompt_tokens: int
    last: float
    sentences: int = 0
    until: float = 0.0

    @property
    def memory(self) -> bool:
        """Whether what it does is to take too much memory."""
        return Counter(self.kinds).most_common(1)[0][0] == MEMORY


class Isolation(Enum):
    """How much of its run a request must have the child for itself."""

    NONE = auto()
    UNTIL_CONTENT = auto()
    WHOLE = auto()


@dataclass(frozen=True, slots=True)
class CrashLedger:
    """All records, and `proven_tokens`: the longest prompt that was seen to complete."""

    records: Mapping[str, CrashRecord] = field(default_factory=lambda: MappingProxyType({}))
    proven_tokens: int = 0

    def refused(self, fingerprint: str, now: float) -> CrashRecord | None:
        """The record that it is refused for, if it is."""
        record = self.records.get(fingerprint)
        return record if record is not None and now < record.until else None

    def solitude(self, fingerprint: str) -> Isolation:
        """How it must run, if it may."""
        record = self.records.get(fingerprint)
        if record is None:
            return Isolation.NONE
        return Isolation.UNTIL_CONTENT if record.prefilling else Isolation.WHOLE

    def safe_tokens(self, record: CrashRecord) -> int:
        """The smaller prompt that a memory killer's client is told to try.

        The longest that was seen to complete is known to be safe, but after a few small requests it would
        tell an agent to compact to nothing: hence at least half of what killed.
        """
        proven = min(self.proven_tokens, record.prompt_tokens - 1)
        return max(1, proven, record.prompt_tokens // 2)


def suspects(accused: Sequence[Accused], ledger: CrashLedger, *, memory: bool) -> frozenset[str]:
    """The fingerprints that one crash is blamed on."""
    # 1. Who was suspected before and not yet cleared, whoever else is here.
    known = {each.fingerprint for each in accused if each.fingerprint in ledger.records}
    if known:
        return frozenset(known)
    # 2. Prefill is where a bad request meets the model first, and where memory is taken fastest; and who cost
    # more than was foretold has taken what was kept for others.
    prefilling = {each.fingerprint for each in accused if each.prefilling}
    dearer = underestimated(accused) if memory else None
    if prefilling or dearer is not None:
        return frozenset(prefilling | ({dearer.fingerprint} if dearer else set()))
    # 3. In decode, the one that came last changed something; by memory, also the one that holds most.
    last = max(accused, key=lambda each: each.asked, default=None)
    largest = max(accused, key=lambda each: each.prompt_tokens, default=None) if memory else None
    return frozenset(each.fingerprint for each in (last, largest) if each is not None)


def underestimated(accused: Sequence[Accused]) -> Accused | None:
    """The one whose cost was foretold too low, as far as the rise of memory tells; None if it does not.

    The rise since one was let in is that one's doing or that of those who came later. So the last of whom
    it is more than was foretold for them all is the one.
    """
    foretold = 0
    for each in sorted(accused, key=lambda each: each.asked, reverse=True):
        if each.predicted is None or each.seen is None:
            return None
        foretold += each.predicted
        if each.seen > _DEARER * foretold:
            return each
    return None


def blame(ledger: CrashLedger, accused: Sequence[Accused], kind: str, now: float) -> CrashLedger:
    """The ledger after a crash of `kind`, with these in flight."""
    blamed = suspects(accused, ledger, memory=kind == MEMORY)
    alone = len({each.fingerprint for each in accused}) == 1
    records = dict(ledger.records)
    for each in accused:
        if each.fingerprint in blamed:
            blamed -= {each.fingerprint}  # twins in one batch are one crash
            records[each.fingerprint] = _charged(records.get(each.fingerprint), each, kind, alone, now)
    return replace(ledger, records=_kept(records, now))


def cleared(ledger: CrashLedger, fingerprint: str, prompt_tokens: int) -> CrashLedger:
    """The ledger after this request completed."""
    proven = max(ledger.proven_tokens, prompt_tokens)
    records = {name: record for name, record in ledger.records.items() if name != fingerprint}
    return CrashLedger(MappingProxyType(records), proven)


def _charged(before: CrashRecord | None, each: Accused, kind: str, alone: bool, now: float) -> CrashRecord:
    kinds = (*(before.kinds if before else ()), kind)[-8:]
    record = CrashRecord(
        kinds=kinds,
        prefilling=each.prefilling and (before is None or before.prefilling),
        prompt_tokens=each.prompt_tokens,
        last=now,
        sentences=before.sentences if before else 0,
        until=before.until if before else 0.0,
    )
    return _sentenced(record, now) if alone and _proven(record, kind) else record


def _proven(record: CrashRecord, kind: str) -> bool:
    """One who has served a sentence and kills again needs no second proof."""
    same, all_ = record.kinds.count(kind), len(record.kinds)
    return same >= _SAME_KIND or all_ >= _ANY_KIND or record.sentences > 0


def _sentenced(record: CrashRecord, now: float) -> CrashRecord:
    length = min(SENTENCE_S * 2.0**record.sentences, LONGEST_SENTENCE_S)
    return replace(record, sentences=record.sentences + 1, until=now + length)


def _kept(records: Mapping[str, CrashRecord], now: float) -> Mapping[str, CrashRecord]:
    fresh = [item for item in records.items() if now < max(item[1].last + FORGET_S, item[1].until)]
    fresh.sort(key=lambda item: item[1].last)
    return MappingProxyType(dict(fresh[-MOST_RECORDS:]))


# As JSON, for a file


def to_json(ledger: CrashLedger) -> dict[str, Any]:
    """Plain values that `from_json` understands."""
    names = CrashRecord.__slots__
    records = {
        fingerprint: {name: getattr(record, name) for name in names}
        for fingerprint, record in ledger.records.items()
    }
    return {"proven_tokens": ledger.proven_tokens, "records": records}


def from_json(content: Mapping[str, Any], now: float) -> CrashLedger:
    """The ledger in a file, without what is too old. Raises ValueError if it is none of ours."""
    try:
        records = {name: _record(values) for name, values in content["records"].items()}
        return CrashLedger(_kept(records, now), int(content["proven_tokens"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a ledger: {error!r}") from error


def _record(values: Mapping[str, Any]) -> CrashRecord:
    kinds: Iterable[str] = values["kinds"]
    record = CrashRecord(**{**values, "kinds": tuple(str(kind) for kind in kinds)})
    if not record.kinds or record.prompt_tokens < 0 or not record.last >= 0 or not record.until >= 0:
        raise ValueError("a record without crashes, size or time")
    return record
