"""The trials, on the machine that these tests run on."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from proxy.doctor import trials
from supervisor.child.process import Exit, is_running
from supervisor.machine import system

SIZE = 32 * 2**20


async def test_memory_that_a_process_takes_is_seen() -> None:
    seen = await trials.rise(SIZE)
    assert seen.before is not None
    assert seen.after is not None
    assert seen.after - seen.before == pytest.approx(SIZE, rel=0.2)


async def test_a_listener_is_found_by_its_port_and_is_gone_afterwards() -> None:
    seen = await trials.port_seen()
    assert seen.listens
    assert seen.holder is not None
    assert f"(pid {seen.pid})" in seen.holder
    assert system.created(seen.pid) is None


async def test_a_stopped_process_is_seen_as_such() -> None:
    seen = await trials.process_seen()
    assert (seen.stopped_before, seen.stopped_after) == (False, True)
    assert seen.cpu_seconds is not None
    assert seen.created == pytest.approx(time.time(), abs=60)


async def test_nothing_is_left_of_a_gateway_that_is_killed() -> None:
    before = set(psutil.Process().children(recursive=True))
    seen = await trials.orphans(5.0)
    assert (seen.started, seen.left) == (3, ())
    assert 1.0 < seen.seconds < 5.0  # SIGTERM, which it ignores, has its time
    assert set(psutil.Process().children(recursive=True)) <= before


async def test_what_is_left_is_told_and_then_ended() -> None:
    """Looked at before the keeper's grace is over."""
    seen = await trials.orphans(0.0)
    assert len(seen.left) == 3
    assert await trials.becomes_true(lambda: not any(map(is_running, seen.left)), 5.0)


async def test_ends_are_told_exactly() -> None:
    assert await trials.exits() == (Exit(7, None), Exit(None, 9))


async def test_a_program_that_ends_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_MODULE", "supervisor.none")
    with pytest.raises(trials.TrialFailed, match="No module named"):
        await trials.rise(SIZE)


async def test_a_program_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_STEP_S", 0.0)
    with pytest.raises(trials.TrialFailed, match="printed nothing"):
        await trials.rise(SIZE)
    assert not [
        each for each in psutil.Process(os.getpid()).children() if "trial_programs" in str(each.cmdline())
    ]


@pytest.mark.real
async def test_memory_that_mlx_takes_is_seen_inside_and_outside() -> None:
    seen = await trials.mlx_rise(SIZE)
    assert seen.active == pytest.approx(SIZE, rel=0.05)
    if seen.backend != "cuda":
        assert seen.rise.before is not None
        assert seen.rise.after is not None
        assert seen.rise.after - seen.rise.before == pytest.approx(SIZE, rel=0.25)
