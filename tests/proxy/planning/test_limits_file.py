"""The file of learned limits: read as written, nothing believed that is out of range, and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.settings import Settings
from proxy.gate.corrections import Correction, Corrections
from proxy.planning.limits_file import FILE, StoredLimits, key_of, read_limits, to_json
from supervisor.memory_model.learned_ceiling import LearnedCeiling, MemoryDeath, lowered
from supervisor.state.json_file import write_json

KEY = {"model": "abc", "mlx": "1.0", "mlx-lm": "2.0", "flags": "", "machine": "m"}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_limits(tmp_path / FILE) is None
    learned = lowered(LearnedCeiling(), MemoryDeath("cuda_oom", 9, 10, 5.0))
    kept = StoredLimits(KEY, learned, Corrections(Correction(1.2, (), 7.0), Correction(0.9, (), 8.0)))
    write_json(tmp_path / FILE, to_json(kept))
    assert read_limits(tmp_path / FILE) == kept


def test_a_file_without_its_key_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"version": 1}')
    with pytest.raises(ValueError, match="without their key"):
        read_limits(tmp_path / FILE)


@pytest.mark.parametrize("belief", [0.1, 9.0, "1.0", None])
def test_a_correction_out_of_its_range_is_not_believed(tmp_path: Path, belief: object) -> None:
    content = to_json(StoredLimits(KEY))
    content["corrections"]["alone"]["belief"] = belief
    write_json(tmp_path / FILE, content)
    with pytest.raises(ValueError, match="correction"):
        read_limits(tmp_path / FILE)


def test_the_key_changes_with_what_the_settings_fix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    auto = key_of(Settings(), tmp_path)
    assert set(auto) == set(KEY)
    fixed = key_of(Settings.model_validate({"upstream": {"decode_concurrency": 3}}), tmp_path)
    assert [name for name in auto if auto[name] != fixed[name]] == ["flags"]
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert [name for name in auto if auto[name] != key_of(Settings(), tmp_path)[name]] == ["model"]
