"""The planner with real traces of configurations of real sizes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.config.settings import Settings
from proxy.planning import planner as planning
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.planner import Planner, local_folder, overrides, server_options
from supervisor.child.generation import Death
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.activations import Traced
from supervisor.memory_model.ceiling import Readings
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind, Quantization
from supervisor.model.resolve import ModelUnavailable
from tests.support import checkpoints


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate({"memory": {"max_active_memory_bytes": "48GB"}} | sections)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    return checkpoints.write(folder, checkpoints.LLAMA_70B, weights=39_700_000_000)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "gemma"
    return checkpoints.write(folder, checkpoints.GEMMA3_27B, weights=16_800_000_000)


@pytest.mark.real
async def test_a_dense_70b(llama: Path, cache: Path) -> None:
    plan = await Planner(settings(), cache).plan(llama)
    assert plan.model.weights == 39_700_000_000
    assert plan.ceiling.bytes == 48 * 10**9
    assert plan.model.cost_model.bytes_per_row == 80 * 8 * 256 * 2
    assert plan.running == 1
    assert all(choice.given for choice in plan.choices)
    assert plan.max_prompt is not None
    assert 512 <= plan.max_prompt < 40_000


@pytest.mark.real
async def test_the_machine_is_read_again_for_a_child_that_runs(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = Planner(settings(memory={}), cache)
    free = Readings(total=96 * 10**9, available=48 * 10**9)
    monkeypatch.setattr(planning.memory_limits, "read", lambda *_: free)
    started = await planner.plan(llama)
    monkeypatch.setattr(planning.memory_limits, "read", lambda *_: replace(free, available=38 * 10**9))
    plans = await planner.replan(started, child=40 * 10**9)
    assert plans is not None
    same, anew = plans
    assert same.ceiling.bytes == anew.ceiling.bytes == started.ceiling.bytes + 30 * 10**9
    assert [(each.name, each.value) for each in same.choices] == [
        (each.name, each.value) for each in started.choices
    ]
    assert started.max_prompt is not None
    assert anew.max_prompt is None or anew.max_prompt > 2 * started.max_prompt, "it could be wider now"
    assert await Planner(settings(), cache).replan(started, child=0) is None


@pytest.mark.real
async def test_windows_cost_no_more_once_they_are_full(gemma: Path, cache: Path) -> None:
    plan = await Planner(settings(), cache).plan(gemma)
    assert plan.model.cost_model.bytes_per_row == 10 * 16 * 256 * 2
    assert plan.model.cost_model.windows == {1024: 52 * 16 * 256 * 2}


@pytest.mark.real
async def test_flags_of_the_server_change_the_cost_model(llama: Path, gemma: Path, cache: Path) -> None:
    args = ["--kv-bits", "8", "--draft-model", str(gemma)]
    plan = await Planner(settings(upstream={"args": args}), cache).plan(llama)
    assert plan.model.cost_model.quantization == Quantization(8)
    assert plan.model.weights == 39_700_000_000 + 16_800_000_000
    assert plan.model.cost_model.bytes_per_row == 80 * 8 * 256 * 2 + 10 * 16 * 256 * 2
    assert plan.running == 1


@pytest.mark.real
async def test_an_adapter_is_weights_only(llama: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "0000100_adapters.safetensors").write_bytes(b"x" * 1000)  # of training; never loaded
    args = ["--adapter-path", str(tmp_path)]
    plan = await Planner(settings(upstream={"args": args}), cache).plan(llama)
    assert plan.model.weights == 39_700_001_000


@pytest.mark.real
async def test_a_restart_reads_only_memory_anew(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = Planner(settings(), cache)
    first = await planner.plan(llama)

    async def asked(*_: object, **__: object) -> None:
        raise AssertionError("it knows")

    with monkeypatch.context() as patched:
        patched.setattr(planning, "trace_model", asked)
        patched.setattr(planning, "offered_flags", asked)
        assert (await planner.plan(llama)).model is first.model
    os.utime(llama / "config.json", ns=(1, 1))
    assert (await planner.plan(llama)).model is not first.model


async def test_a_doubtful_answer_is_asked_for_again_but_not_at_each_restart(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, now = list[float](), [0.0]

    async def no_answer(*_: object, **__: object) -> frozenset[str]:
        asked.append(now[0])
        return frozenset()

    async def untraced(*_: object, **__: object) -> Traced:
        return Traced(CostModel((CachePart(GrowthKind.GROWING, 10**6),)), reason="it took too long")

    monkeypatch.setattr(planning, "offered_flags", no_answer)
    monkeypatch.setattr(planning, "trace_model", untraced)
    planner = Planner(settings(), cache, clock=lambda: now[0])
    for now[0] in (0.0, 10.0, 599.0, 601.0):
        await planner.plan(llama)
    assert asked == [0.0, 601.0]


@pytest.mark.real
async def test_a_memory_death_lowers_the_next_plan(llama: Path, cache: Path) -> None:
    limits = LearnedLimits()
    planner = Planner(settings(), cache, limits)
    before = await planner.plan(llama)
    limits.record_death(Death(1, Cause.METAL_OOM, "", "", None, None, (), State.READY, False, 47 * 10**9))
    after = await planner.plan(llama)
    assert after.ceiling.bytes == pytest.approx(0.95 * 47 * 10**9)
    assert "learned from a death" in after.ceiling.source
    assert after.ceiling.others[0].bytes == before.ceiling.bytes
    assert (after.max_prompt or 0) < (before.max_prompt or 0)


async def test_a_folder_without_a_model_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"has no config\.json"):
        await Planner(settings(), tmp_path).plan(tmp_path)


def test_server_options_are_read_as_the_server_reads_them() -> None:
    options = server_options(["--temp", "0.7", "--kv-bits=4", "--kv-group-size", "32"])
    assert (options.kv_bits, options.kv_group_size, options.quantized_kv_start) == (4, 32, 5000)
    with pytest.raises(ValueError, match="kv-bits"):
        server_options(["--kv-bits", "many"])


def test_auto_overrides_nothing() -> None:
    assert overrides(Settings()).prefill_step_size is None
    assert not overrides(Settings()).own_command
    fixed = overrides(settings(upstream={"prefill_step_size": 512, "telemetry": "off"}))
    assert fixed.prefill_step_size == 512
    assert fixed.own_command


def test_a_plan_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    missing = Settings.model_validate({"model": {"path": "org/name"}})
    with pytest.raises(ModelUnavailable, match="neither a folder nor downloaded"):
        local_folder(missing, tmp_path)
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    assert local_folder(missing, tmp_path) == snapshot


def test_the_embedded_model_is_in_the_cache_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        local_folder(Settings(), tmp_path)
    (tmp_path / "tiny").mkdir()
    assert local_folder(Settings(), tmp_path) == tmp_path / "tiny"
