"""The memory history is bounded, and says how much memory was in use at a death."""

from __future__ import annotations

from supervisor.lifecycle.diagnosis import MachinePressure
from supervisor.lifecycle.memory_history import MemoryHistory, MemorySample


def test_it_keeps_a_minute() -> None:
    history = MemoryHistory()
    assert history.last() is None
    for at in range(1000):
        history.add(MemorySample(at / 2, free=at))
    rows = history.table(now=500)["rows"]
    assert len(rows) == 120
    assert rows[-1][:2] == [0.5, 999]
    assert history.last() == MemorySample(499.5, free=999)


def test_pressure_is_the_least_free_memory_of_the_last_seconds() -> None:
    history = MemoryHistory()
    assert history.pressure(0, 100, 1) == MachinePressure(1, None)
    for at, free in ((0, 1), (6, 20), (8, 5), (10, 60)):
        history.add(MemorySample(at, free=free))
    assert history.pressure(11, 100, None) == MachinePressure(None, 0.05)


def test_the_peak_is_mlx_s_own_where_known() -> None:
    history = MemoryHistory()
    assert history.peak() is None
    history.add(MemorySample(0, free=1, footprint=500))
    assert history.peak() == 500
    history.add(MemorySample(1, free=1, footprint=900, active=10, peak=70, cache=0))
    history.add(MemorySample(2, free=1, footprint=900, active=10, peak=80, cache=0))
    assert history.peak() == 80


def test_active_memory_at_the_end_is_that_of_the_last_seconds() -> None:
    history = MemoryHistory()
    assert history.recent_active(0) is None
    history.add(MemorySample(0, free=1, active=90, peak=95, cache=0))
    history.add(MemorySample(8, free=1, active=50, peak=95, cache=0))
    history.add(MemorySample(9, free=1, active=60, peak=95, cache=0))
    assert history.recent_active(10) == 60
    history.add(MemorySample(10, free=1, active=70, peak=99, cache=0))
    assert history.recent_active(10) == 99, "the peak is new: it was between two samples"
    assert history.recent_active(100) is None


def test_the_table_shows_the_free_memory_of_a_gpu() -> None:
    history = MemoryHistory()
    history.add(MemorySample(0, free=9, footprint=2, active=37, peak=40, cache=5, card_free=1))
    table = history.table(now=0.4)
    assert dict(zip(table["columns"], table["rows"][0], strict=True)) == {
        "age_s": 0.4,
        "free": 9,
        "footprint": 2,
        "active": 37,
        "peak": 40,
        "cache": 5,
        "card_free": 1,
    }


def test_missing_memory_of_the_card_belongs_to_other_programs() -> None:
    history = MemoryHistory()
    assert history.other_programs(150) is None
    history.add(MemorySample(0, free=9, footprint=2))
    assert history.other_programs(150) is None
    history.add(MemorySample(1, free=9, active=15, peak=36, cache=14, card_free=1))
    assert history.other_programs(150) == 120
