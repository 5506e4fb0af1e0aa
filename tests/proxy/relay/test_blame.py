"""Suspects by evidence, quarantine by proof: what a crash in company and a crash alone lead to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.job import Job, Stage
from proxy.relay.blame import (
    FORGET_S,
    LONGEST_QUARANTINE_S,
    MEMORY,
    MOST_RECORDS,
    QUARANTINE_S,
    CrashLedger,
    Isolation,
    blame,
    cleared,
    suspects,
    underestimated,
)
from tests.proxy.test_job import a_job


def reading(
    name: str,
    *,
    tokens: int = 100,
    asked: float = 0,
    predicted: int | None = None,
    observed: int | None = None,
) -> Job:
    job = a_job(prompt_tokens=tokens)
    job._fingerprint, job.stage, job.asked = name, Stage.PREFILL, asked
    job.predicted_bytes, job.seen_bytes = predicted, observed
    return job


def decoding(name: str, **values: Any) -> Job:
    job = reading(name, **values)
    job.stage = Stage.DECODE
    return job


def names(*each: Job, ledger: CrashLedger | None = None, memory: bool = False) -> set[str]:
    return set(suspects(each, ledger or CrashLedger(), memory=memory))


def test_what_was_alone_is_the_suspect() -> None:
    assert names(decoding("a")) == {"a"}


def test_with_nothing_in_flight_no_request_is_blamed() -> None:
    assert names(memory=True) == set()
    assert blame(CrashLedger(), [], "segfault", 0).records == {}


def test_what_was_in_prefill_is_suspected_before_what_decoded() -> None:
    assert names(reading("a"), decoding("b", asked=9), reading("c")) == {"a", "c"}


def test_in_decode_the_last_one_is_suspected_and_by_memory_also_the_largest() -> None:
    batch = decoding("a", tokens=900, asked=1), decoding("b", asked=3), decoding("c", asked=2)
    assert names(*batch) == {"b"}
    assert names(*batch, memory=True) == {"a", "b"}


def costing(name: str, predicted: int | None, observed: int | None, *, asked: float) -> Job:
    return decoding(name, asked=asked, predicted=predicted, observed=observed)


def test_a_request_that_cost_more_than_predicted_is_suspected() -> None:
    batch = (
        costing("first", 100, 400, asked=1),
        costing("dear", 100, 310, asked=2),
        costing("last", 100, 90, asked=3),
    )
    assert names(*batch, memory=True) == {"dear"}, "the rise since the first has this one's in it"
    assert names(*batch) == {"last"}, "what it cost says nothing of another kind of crash"
    assert names(*batch, reading("reading", asked=4), memory=True) == {"reading"}, "not all is known"


def test_a_rise_that_was_predicted_is_no_evidence() -> None:
    batch = costing("a", 100, 240, asked=1), costing("b", 100, 110, asked=2)
    assert names(*batch, memory=True) == {"b", "a"}, "the last and the largest, as without figures"
    assert underestimated(batch) is None
    assert underestimated([costing("a", 100, None, asked=1)]) is None
    assert underestimated([]) is None


def test_reading_and_dear_are_both_suspects() -> None:
    late = reading("reading", asked=3, predicted=100, observed=100)
    assert names(costing("dear", 100, 300, asked=1), late, memory=True) == {"dear", "reading"}


def test_an_old_suspect_is_blamed_before_anybody_else() -> None:
    ledger = blame(CrashLedger(), [reading("old"), decoding("b")], "segfault", 0)
    assert names(decoding("old"), reading("new"), ledger=ledger) == {"old"}


def test_the_second_crash_alone_leads_to_quarantine() -> None:
    ledger = blame(CrashLedger(), [reading("poison"), decoding("innocent")], "segfault", 0)
    assert ledger.refused("poison", 0) is None
    assert ledger.isolation("poison") is Isolation.UNTIL_FIRST_TOKEN
    assert ledger.isolation("innocent") is Isolation.NONE
    ledger = blame(ledger, [reading("poison")], "segfault", 1)
    record = ledger.refused("poison", 1)
    assert record is not None
    assert not record.memory
    assert record.until == 1 + QUARANTINE_S


def test_crashes_in_company_never_lead_to_quarantine() -> None:
    ledger = CrashLedger()
    for at in range(20):
        ledger = blame(ledger, [reading("a"), reading("b")], "segfault", at)
    assert ledger.refused("a", 20) is ledger.refused("b", 20) is None


def test_identical_requests_in_one_batch_count_as_one() -> None:
    ledger = blame(CrashLedger(), [reading("a"), reading("a")], "segfault", 0)
    assert ledger.records["a"].kinds == ("segfault",)
    assert blame(ledger, [reading("a"), reading("a")], "segfault", 1).refused("a", 1) is not None


def test_two_crashes_of_different_kinds_are_no_proof_but_three_are() -> None:
    ledger = CrashLedger()
    for at, kind in enumerate(("segfault", "wedge")):
        ledger = blame(ledger, [reading("a")], kind, at)
        assert ledger.refused("a", at) is None
    assert blame(ledger, [reading("a")], MEMORY, 2).refused("a", 2) is not None


def test_completing_clears() -> None:
    ledger = blame(CrashLedger(), [reading("a"), reading("b")], "segfault", 0)
    ledger = cleared(ledger, "a", 100)
    assert set(ledger.records) == {"b"}
    assert blame(ledger, [reading("a")], "segfault", 1).refused("a", 1) is None


def test_quarantines_grow_and_are_bounded() -> None:
    ledger, now, lengths = blame(CrashLedger(), [reading("a")], "wedge", 0), 1.0, []
    for _ in range(12):
        ledger = blame(ledger, [reading("a")], "wedge", now)
        record = ledger.refused("a", now)
        assert record is not None
        lengths.append(record.until - now)
        now = record.until
        assert ledger.refused("a", now) is None
    assert lengths[:3] == [QUARANTINE_S, 2 * QUARANTINE_S, 4 * QUARANTINE_S]
    assert lengths[-1] == LONGEST_QUARANTINE_S


def test_a_suspect_of_decode_is_isolated_to_its_end() -> None:
    ledger = blame(CrashLedger(), [decoding("a")], "wedge", 0)
    assert ledger.isolation("a") is Isolation.FULL
    assert blame(ledger, [reading("a")], "segfault", 1).isolation("a") is Isolation.FULL


@pytest.mark.parametrize(
    ("proven", "safe"), [(0, 500), (300, 500), (800, 800), (1000, 999), (9000, 999)], ids=str
)
def test_the_safe_size_is_what_was_seen_to_complete_or_half(proven: int, safe: int) -> None:
    ledger = cleared(CrashLedger(), "other", proven)
    for at in (1, 2):
        ledger = blame(ledger, [reading("a", tokens=1000)], MEMORY, at)
    record = ledger.refused("a", 2)
    assert record is not None
    assert record.memory
    assert ledger.safe_tokens(record) == safe


def test_the_untested_are_forgotten_in_time_and_in_number() -> None:
    ledger = blame(CrashLedger(), [reading("a")], "wedge", 0)
    assert "a" not in blame(ledger, [reading("b")], "wedge", FORGET_S).records
    for number in range(MOST_RECORDS + 10):
        ledger = blame(ledger, [reading(str(number))], "wedge", number)
    assert len(ledger.records) == MOST_RECORDS
    assert "9" not in ledger.records


def test_it_survives_as_json() -> None:
    ledger = cleared(blame(CrashLedger(), [reading("a"), decoding("b")], MEMORY, 5), "x", 7)
    for at in (6, 7):
        ledger = blame(ledger, [reading("a")], "wedge", at)
    form = TypeAdapter(CrashLedger)
    content = form.dump_json(replace(ledger, records=dict(ledger.records)))
    assert form.validate_json(content, strict=True) == ledger


INNOCENTS = st.lists(st.sampled_from("abcdef"), max_size=5, unique=True)


@given(st.lists(st.tuples(INNOCENTS, st.booleans()), max_size=30))
def test_an_innocent_request_in_company_of_a_killer_is_never_quarantined(
    rounds: list[tuple[list[str], bool]],
) -> None:
    """Whoever runs with the killer each time, in whatever phase."""
    ledger = CrashLedger()
    for at, (company, prefilling) in enumerate(rounds):
        batch = [(reading if prefilling else decoding)(name) for name in company]
        ledger = blame(ledger, [*batch, decoding("killer")], "segfault", at)
        assert not any(ledger.refused(name, at) for name in "abcdef")
