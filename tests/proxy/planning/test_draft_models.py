"""Draft models and adapters as the plan counts them; the trace is a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.settings import Settings
from proxy.planning.draft_models import DraftModels, largest_draft_models
from proxy.planning.planner import Planner
from tests.support import checkpoints

pytestmark = pytest.mark.real
ROW = 48 * 4 * 256 * 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    return checkpoints.write(folder, checkpoints.QWEN3_30B_MOE, weights=17 * 10**9)


async def test_nothing_beside_the_model_costs_nothing(cache: Path) -> None:
    assert await largest_draft_models([], [], cache) == DraftModels()


async def test_of_several_the_largest_counts(model: Path, cache: Path, tmp_path: Path) -> None:
    small = checkpoints.write(tmp_path / "small", checkpoints.QWEN3_30B_MOE, weights=10**9)
    for name, size in (("one", 100), ("two", 300)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapters.safetensors").write_bytes(b"x" * size)
    found = await largest_draft_models(
        [str(small), str(model)], [tmp_path / "one", tmp_path / "two", tmp_path / "none"], cache
    )
    assert found.weights == 17 * 10**9 + 300
    assert found.cost_model is not None
    assert found.cost_model.bytes_per_row == ROW
    assert (found.reason, found.missing) == (None, ())


async def test_what_requests_may_name_is_part_of_the_plan(model: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters.safetensors").write_bytes(b"x" * 1000)
    named = {"draft_models": [str(model)], "adapters": [str(tmp_path)]}
    memory = {"max_active_memory_bytes": "48GB"}
    settings = Settings.model_validate({"memory": memory, "request": named})
    plan = await Planner(settings, cache).plan(model)
    assert plan.model.weights == 2 * 17 * 10**9 + 1000
    assert plan.model.cost_model.bytes_per_row == 2 * ROW
    assert plan.model.batched, "requests that name none run together"


async def test_a_draft_model_that_is_not_there_is_told_of(model: Path, cache: Path) -> None:
    upstream = {"args": ["--draft-model", "nobody/has-this"]}
    plan = await Planner(Settings.model_validate({"upstream": upstream}), cache).plan(model)
    assert any("nobody/has-this is not on this machine" in warning for warning in plan.warnings)
    assert plan.model.weights == 17 * 10**9


async def test_a_draft_model_that_cannot_be_traced_makes_a_bound(
    model: Path, cache: Path, tmp_path: Path
) -> None:
    unknown = checkpoints.write(
        tmp_path / "unknown", {**checkpoints.QWEN3_30B_MOE, "model_type": "no_such_thing"}, weights=10**9
    )
    upstream = {"args": ["--draft-model", str(unknown)]}
    plan = await Planner(Settings.model_validate({"upstream": upstream}), cache).plan(model)
    assert plan.summary()["exact"] is False
    assert any("the draft model's" in warning for warning in plan.warnings)
    assert plan.model.cost_model.bytes_per_row > 2 * ROW
