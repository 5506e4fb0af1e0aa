"""Learned limits in the state folder: what they hold for, what is dropped and said, what a reset does."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.gate.corrections import Correction, Corrections
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.limits_file import FILE, StoredLimits, read_limits, to_json
from supervisor.child.generation import Death
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.learned_ceiling import STABLE_S, LearnedCeiling
from supervisor.state.json_file import write_json

KEY = {"model": "abc", "mlx": "1.0", "mlx-lm": "2.0", "flags": "", "machine": "m"}
GB = 10**9


def death(
    cause: Cause = Cause.METAL_OOM,
    *,
    held: int | None = 23 * GB,
    outside: bool = False,
    state: State = State.READY,
) -> Death:
    return Death(1, cause, "", "", None, None, (), state, outside, held)


class Stand:
    def __init__(self, folder: Path, **key: str) -> None:
        self.now = 0.0
        self.file = folder / FILE
        self.limits = LearnedLimits(self.file, clock=lambda: self.now, wall=lambda: 5.0)
        self.limits.take(KEY | key)
        self.limits.planned(24 * GB)

    @property
    def share(self) -> float:
        return self.limits.learned.share


async def test_a_memory_death_is_learned_from_and_the_next_proxy_knows_it(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.died(death())
    await stand.limits.stop()
    assert 0.9 < stand.share < 0.97
    kept = read_limits(stand.file)
    assert kept is not None
    assert (kept.key, kept.learned) == (KEY, stand.limits.learned)
    assert Stand(tmp_path).limits.learned == stand.limits.learned


@pytest.mark.parametrize(
    "other",
    [
        death(Cause.SEGFAULT),
        death(held=None),
        death(Cause.KILLED_BY_SYSTEM, outside=True),
        death(state=State.STARTING),
    ],
    ids=["of another kind", "without telemetry", "by somebody", "while loading"],
)
async def test_what_says_nothing_of_the_ceiling_teaches_nothing(tmp_path: Path, other: Death) -> None:
    stand = Stand(tmp_path)
    stand.limits.died(other)
    await stand.limits.stop()
    assert stand.limits.learned == LearnedCeiling()
    assert not stand.file.exists()


@pytest.mark.parametrize("part", KEY)
async def test_another_key_drops_it_and_says_so(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(tmp_path)
    stand.limits.died(death())
    await stand.limits.stop()
    assert Stand(tmp_path, **{part: "another"}).limits.learned == LearnedCeiling()
    (dropped,) = [record for record in caplog.records if record.getMessage() == "learned_limits_dropped"]
    assert dropped.__dict__["changed"] == [part]


async def test_a_reset_by_hand_holds_from_the_next_plan_on(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.died(death())
    assert stand.limits.take(KEY).last is not None, "it may not be on disk yet"
    await stand.limits.stop()
    stand.file.unlink()
    assert stand.limits.take(KEY) == LearnedCeiling()
    assert stand.limits.take(KEY) == LearnedCeiling()


async def test_work_beside_other_work_is_counted_once(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.died(death())
    lowered = stand.share
    stand.now = 1000.0
    stand.limits.worked(0.0)
    stand.limits.worked(10.0)
    stand.now = 1100.0
    stand.limits.worked(500.0)
    assert stand.limits.learned.worked_s == 1100.0
    stand.now = 2000.0 + STABLE_S
    stand.limits.worked(2000.0)
    assert stand.share > lowered
    await stand.limits.stop()
    assert Stand(tmp_path).limits.learned == stand.limits.learned


async def test_what_the_gate_learned_of_the_law_outlives_it_and_ages(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.now = 50.0
    stand.limits.corrected(Corrections(together=Correction(1.2, (9.0,), at=40.0)))
    await stand.limits.stop()
    later = Stand(tmp_path)
    assert later.limits.corrections.together.at == 40.0 - 50.0 + 0.0
    assert later.limits.corrections.together.belief == 1.2
    stand.file.unlink()
    later.limits.take(KEY)
    assert later.limits.corrections == Corrections(), "a reset forgets it too"


async def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / FILE, {**to_json(StoredLimits({})), "learned": {"share": 7}})
    assert Stand(tmp_path).limits.learned == LearnedCeiling()
    assert "learned_limits_not_read" in [record.getMessage() for record in caplog.records]
