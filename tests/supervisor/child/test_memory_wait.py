"""The wait for memory lasts while memory comes back, is bounded, and ignores what other programs took."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from supervisor.child import memory_wait
from supervisor.child.memory_wait import LONGEST_S, SETTLED_S, MemoryWait, wait_for_memory

GB = 10**9


def waited(
    frees: list[int], *, step_s: float, before: int = 30 * GB, used: int = 25 * GB
) -> tuple[float, int]:
    """Seconds and missing bytes, for free memory as seen every `step_s`."""
    wait, now, free = MemoryWait(before, used, 36 * GB, 0.0, frees[0], 0.0), 0.0, frees[0]
    for number, free in enumerate(frees):
        now = number * step_s
        wait = wait.seen(free, now)
        if wait.over(free, now):
            break
    return now, wait.missing(free)


def test_no_wait_for_memory_that_is_back() -> None:
    assert waited([30 * GB], step_s=1) == (0, 0)
    assert waited([29 * GB + GB // 2], step_s=1) == (0, 0), "a little less may be due to other programs"


def test_no_wait_for_memory_that_the_child_never_used() -> None:
    assert waited([20 * GB], step_s=1, used=GB // 2) == (0, 0)
    assert waited([20 * GB] * 9, step_s=0.5, used=2 * GB) == (SETTLED_S, 2 * GB)


def test_it_waits_while_memory_comes() -> None:
    assert waited([10 * GB, 15 * GB, 22 * GB, 30 * GB, 30 * GB], step_s=1) == (3, 0)


def test_missing_memory_is_reported() -> None:
    assert waited([10 * GB] * 20, step_s=0.5) == (SETTLED_S, 20 * GB)


def test_it_never_waits_for_ever() -> None:
    assert waited([GB * number // 10 for number in range(200)], step_s=1)[0] == LONGEST_S


async def test_free_memory_is_read_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    frees = [10 * GB, 20 * GB, 30 * GB]
    readings = SimpleNamespace(free_memory=lambda: frees.pop(0), total_memory=lambda: 36 * GB)
    monkeypatch.setattr(memory_wait, "system", readings)
    monkeypatch.setattr(memory_wait, "_LOOK_S", 0.01)
    _, missing = await wait_for_memory(30 * GB, used=25 * GB)
    assert missing == 0
    assert not frees, "it looked until all was back"
