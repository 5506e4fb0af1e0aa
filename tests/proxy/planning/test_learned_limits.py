"""Learned limits: the key that they apply to, what is dropped and logged, and what a reset does."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.settings import Settings
from proxy.gate.corrections import Correction, Corrections
from proxy.planning.learned_limits import LIMITS, LearnedLimits, key_of
from proxy.planning.learned_state import FILE, LearnedFile, forget, read_section
from supervisor.child.generation import Death
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.learned_ceiling import STABLE_S, LearnedCeiling

KEY = {"model": "abc", "mlx": "1.0", "mlx-lm": "2.0", "flags": "", "machine": "m"}
GB = 10**9


def death(
    cause: Cause = Cause.METAL_OOM,
    *,
    held: int | None = 23 * GB,
    external: bool = False,
    state: State = State.READY,
) -> Death:
    return Death(1, cause, "", "", None, None, (), state, external, held)


class Stand:
    def __init__(self, folder: Path, **key: str) -> None:
        self.now = 0.0
        self.folder = folder
        self.file = LearnedFile(folder)
        self.limits = LearnedLimits(self.file, clock=lambda: self.now, wall=lambda: 5.0)
        self.limits.select(KEY | key)
        self.limits.set_ceiling(24 * GB)

    async def stop(self) -> None:
        self.limits.save()
        await self.file.stop()

    @property
    def share(self) -> float:
        return self.limits.learned.share


async def test_a_memory_death_is_learned_from_and_the_next_proxy_knows_it(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(death())
    await stand.stop()
    assert 0.9 < stand.share < 0.97
    kept = read_section(tmp_path, LIMITS)
    assert kept is not None
    assert (kept.key, kept.learned) == (KEY, stand.limits.learned)
    assert Stand(tmp_path).limits.learned == stand.limits.learned


@pytest.mark.parametrize(
    "other",
    [
        death(Cause.SEGFAULT),
        death(held=None),
        death(Cause.KILLED_BY_SYSTEM, external=True),
        death(state=State.STARTING),
    ],
    ids=["of another kind", "without telemetry", "by somebody", "while loading"],
)
async def test_what_says_nothing_of_the_ceiling_teaches_nothing(tmp_path: Path, other: Death) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(other)
    await stand.stop()
    assert stand.limits.learned == LearnedCeiling()
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("part", KEY)
async def test_another_key_drops_it_and_says_so(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(death())
    await stand.stop()
    assert Stand(tmp_path, **{part: "another"}).limits.learned == LearnedCeiling()
    (dropped,) = [record for record in caplog.records if record.getMessage() == "learned_limits_dropped"]
    assert dropped.__dict__["changed"] == [part]


async def test_a_reset_by_hand_holds_from_the_next_plan_on(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(death())
    assert stand.limits.select(KEY).last is not None, "it may not be on disk yet"
    await stand.stop()
    assert forget(tmp_path, LIMITS)
    assert stand.limits.select(KEY) == LearnedCeiling()
    assert stand.limits.select(KEY) == LearnedCeiling()


async def test_work_beside_other_work_is_counted_once(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(death())
    lowered = stand.share
    stand.now = 1000.0
    stand.limits.record_work(0.0)
    stand.limits.record_work(10.0)
    stand.now = 1100.0
    stand.limits.record_work(500.0)
    assert stand.limits.learned.worked_s == 1100.0
    stand.now = 2000.0 + STABLE_S
    stand.limits.record_work(2000.0)
    assert stand.share > lowered
    await stand.stop()
    assert Stand(tmp_path).limits.learned == stand.limits.learned


async def test_corrections_of_the_cost_model_outlive_the_process_and_age(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.now = 50.0
    stand.limits.record_corrections(Corrections(together=Correction(1.2, (9.0,), at=40.0)))
    await stand.stop()
    later = Stand(tmp_path)
    assert later.limits.corrections.together.at == 40.0 - 50.0 + 0.0
    assert later.limits.corrections.together.belief == 1.2
    assert forget(tmp_path, LIMITS)
    later.limits.select(KEY)
    assert later.limits.corrections == Corrections(), "a reset forgets it too"


async def test_a_key_that_changed_meanwhile_is_not_reset(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.limits.record_death(death())
    await stand.stop()
    stand.limits.select(KEY | {"model": "other"})
    assert stand.limits.learned == LearnedCeiling()
    assert stand.limits.select(KEY).last is not None, "its section is still on disk"


def test_the_key_changes_with_what_the_settings_fix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    auto = key_of(Settings(), tmp_path)
    assert set(auto) == set(KEY)
    fixed = key_of(Settings.model_validate({"upstream": {"decode_concurrency": 3}}), tmp_path)
    assert [name for name in auto if auto[name] != fixed[name]] == ["flags"]
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert [name for name in auto if auto[name] != key_of(Settings(), tmp_path)[name]] == ["model"]
