"""The memory curve: bounded, and what it says of a death."""

from __future__ import annotations

from supervisor.lifecycle.diagnosis import MachinePressure
from supervisor.lifecycle.memory_curve import MemoryHistory, MemorySample


def test_it_keeps_a_minute() -> None:
    curve = MemoryHistory()
    assert curve.last() is None
    for at in range(1000):
        curve.add(MemorySample(at / 2, free=at))
    rows = curve.table(now=500)["rows"]
    assert len(rows) == 120
    assert rows[-1][:2] == [0.5, 999]
    assert curve.last() == MemorySample(499.5, free=999)


def test_pressure_is_the_least_free_memory_of_the_last_seconds() -> None:
    curve = MemoryHistory()
    assert curve.pressure(0, 100, 1) == MachinePressure(1, None)
    for at, free in ((0, 1), (6, 20), (8, 5), (10, 60)):
        curve.add(MemorySample(at, free=free))
    assert curve.pressure(11, 100, None) == MachinePressure(None, 0.05)


def test_the_peak_is_that_from_inside_if_it_is_known() -> None:
    curve = MemoryHistory()
    assert curve.peak() is None
    curve.add(MemorySample(0, free=1, footprint=500))
    assert curve.peak() == 500
    curve.add(MemorySample(1, free=1, footprint=900, active=10, peak=70, cache=0))
    curve.add(MemorySample(2, free=1, footprint=900, active=10, peak=80, cache=0))
    assert curve.peak() == 80


def test_what_was_held_in_the_end_is_that_of_the_last_seconds() -> None:
    curve = MemoryHistory()
    assert curve.held(0) is None
    curve.add(MemorySample(0, free=1, active=90, peak=95, cache=0))
    curve.add(MemorySample(8, free=1, active=50, peak=95, cache=0))
    curve.add(MemorySample(9, free=1, active=60, peak=95, cache=0))
    assert curve.held(10) == 60
    curve.add(MemorySample(10, free=1, active=70, peak=99, cache=0))
    assert curve.held(10) == 99, "the peak is new: it was between two samples"
    assert curve.held(100) is None


def test_the_table_shows_what_a_card_of_its_own_had_left() -> None:
    curve = MemoryHistory()
    curve.add(MemorySample(0, free=9, footprint=2, active=37, peak=40, cache=5, card_free=1))
    table = curve.table(now=0.4)
    assert dict(zip(table["columns"], table["rows"][0], strict=True)) == {
        "age_s": 0.4,
        "free": 9,
        "footprint": 2,
        "active": 37,
        "peak": 40,
        "cache": 5,
        "card_free": 1,
    }


def test_what_is_missing_on_the_card_is_with_other_programs() -> None:
    curve = MemoryHistory()
    assert curve.elsewhere(150) is None
    curve.add(MemorySample(0, free=9, footprint=2))
    assert curve.elsewhere(150) is None
    curve.add(MemorySample(1, free=9, active=15, peak=36, cache=14, card_free=1))
    assert curve.elsewhere(150) == 120
