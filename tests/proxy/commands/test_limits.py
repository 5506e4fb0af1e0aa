"""`mlxguard-proxy limits`, as it is typed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.config.settings import Settings
from proxy.gate.corrections import Correction, Corrections
from proxy.planning.learned_limits import LIMITS, StoredLimits, key_of
from proxy.planning.learned_state import FILE, read_section
from supervisor.memory_model.learned_ceiling import LearnedCeiling, MemoryDeath, lowered
from supervisor.state.json_file import write_json
from tests.support import checkpoints

GB = 10**9


def limits(folder: Path, *words: str) -> int:
    state = ["--set", f"supervisor.state_dir={folder}"]
    return main(["limits", *words, *state, "--model", str(folder / "model")])


def learn(folder: Path, **key: str) -> LearnedCeiling:
    model = checkpoints.write(folder / "model", checkpoints.LLAMA_70B, weights=10**6)
    learned = lowered(LearnedCeiling(), MemoryDeath("metal_oom", 23 * GB, 24 * GB, 1_767_607_872.0))
    corrections = Corrections(together=Correction(1.11, (), time.time()))
    stored = StoredLimits({**key_of(Settings(), model), **key}, learned, corrections)
    write_json(folder / FILE, {"limits": LIMITS.form.dump_python(stored, mode="json")})
    return learned


def test_nothing_learned_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert limits(tmp_path) == 0
    assert limits(tmp_path, "reset") == 0
    assert capsys.readouterr().out == "nothing has been learned\n" * 2


def test_what_was_learned_is_shown_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = learn(tmp_path)
    assert limits(tmp_path) == 0
    shown = capsys.readouterr().out
    for part in (
        "memory    91% of what would otherwise be allowed, learned from a death",
        "metal_oom at 23.0 GB of 24.0 GB",
        "raised a little after 30 more minutes of work",
        "mlx-lm    0.",
        "predicted x 1.00 alone, x 1.10 together",
    ):
        assert part in shown
    assert "does not apply" not in shown
    assert limits(tmp_path, "--json") == 0
    stored = LIMITS.form.validate_json(capsys.readouterr().out, strict=True)
    assert stored.learned == learned


def test_what_is_not_for_today_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn(tmp_path, mlx="0.1")
    assert limits(tmp_path) == 0
    assert "This does not apply to the current mlx: the next start drops it." in capsys.readouterr().out


def test_a_reset_forgets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn(tmp_path)
    assert limits(tmp_path, "reset") == 0
    assert "forgotten" in capsys.readouterr().out
    assert read_section(tmp_path, LIMITS) is None


def test_a_damaged_file_can_only_be_reset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_text('{"version": 1, "limits": 3}')
    assert limits(tmp_path) == 2
    assert "limits reset" in capsys.readouterr().err
    assert limits(tmp_path, "reset") == 0
