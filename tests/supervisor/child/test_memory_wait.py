"""Waiting for memory: as long as it comes, never for ever, and not for what others may have taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from supervisor.child import memory_wait
from supervisor.child.memory_wait import LONGEST_S, SETTLED_S, MemoryWait, memory_back

GB = 10**9


def waited(
    frees: list[int], *, step_s: float, before: int = 30 * GB, held: int = 25 * GB
) -> tuple[float, int]:
    """Seconds and missing bytes, for free memory as seen every `step_s`."""
    wait, now, free = MemoryWait(before, held, 36 * GB, 0.0, frees[0], 0.0), 0.0, frees[0]
    for number, free in enumerate(frees):
        now = number * step_s
        wait = wait.seen(free, now)
        if wait.over(free, now):
            break
    return now, wait.missing(free)


def test_memory_that_is_back_is_not_waited_for() -> None:
    assert waited([30 * GB], step_s=1) == (0, 0)
    assert waited([29 * GB + GB // 2], step_s=1) == (0, 0), "a little less is other programs' doing"


def test_what_the_child_never_held_is_not_waited_for() -> None:
    assert waited([20 * GB], step_s=1, held=GB // 2) == (0, 0)
    assert waited([20 * GB] * 9, step_s=0.5, held=2 * GB) == (SETTLED_S, 2 * GB)


def test_it_waits_while_memory_comes() -> None:
    assert waited([10 * GB, 15 * GB, 22 * GB, 30 * GB, 30 * GB], step_s=1) == (3, 0)


def test_what_does_not_come_is_noted() -> None:
    assert waited([10 * GB] * 20, step_s=0.5) == (SETTLED_S, 20 * GB)


def test_it_never_waits_for_ever() -> None:
    assert waited([GB * number // 10 for number in range(200)], step_s=1)[0] == LONGEST_S


async def test_the_shell_looks_at_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    frees = [10 * GB, 20 * GB, 30 * GB]
    readings = SimpleNamespace(free_memory=lambda: frees.pop(0), total_memory=lambda: 36 * GB)
    monkeypatch.setattr(memory_wait, "system", readings)
    monkeypatch.setattr(memory_wait, "_LOOK_S", 0.01)
    back = await memory_back(30 * GB, held=25 * GB)
    assert back.missing_bytes == 0
    assert not frees, "it looked until all was back"
