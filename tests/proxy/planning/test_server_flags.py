from __future__ import annotations

from pathlib import Path

from proxy.config.settings import Settings
from proxy.planning.server_flags import server_flags
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import plan

FOLDER = Path("/models/a")


def flags(**upstream: object) -> tuple[str, ...]:
    return server_flags(Settings.model_validate({"upstream": upstream}), FOLDER)


def test_auto_leaves_the_servers_own_defaults() -> None:
    assert flags() == ("--model", "/models/a")


def test_auto_takes_the_plans_choice_where_the_server_has_the_flag() -> None:
    traced = Traced(cost_model=CostModel((CachePart(GrowthKind.GROWING, 1000),)))
    model = Model(weights=10**9, cost_model=traced.cost_model, traced=traced, batched=True)
    offered = frozenset({"--prefill-step-size", "--prompt-cache-size"})
    made = plan(model, Ceiling(10**10, "a test"), FlagOverrides(prefill_step_size=512), offered, 4096)
    settings = Settings.model_validate({"upstream": {"prompt_concurrency": 5}})
    assert server_flags(settings, FOLDER, made) == (
        *("--model", "/models/a", "--prefill-step-size", "512"),
        *("--prompt-concurrency", "5", "--prompt-cache-size", "10"),
    )


def test_what_is_set_becomes_the_flag_of_the_same_name() -> None:
    assert flags(prefill_step_size=512, prompt_cache_bytes="2GB", decode_concurrency=4) == (
        *("--model", "/models/a", "--prefill-step-size", "512", "--decode-concurrency", "4"),
        *("--prompt-cache-bytes", "2000000000"),
    )


def test_further_arguments_come_last_and_as_they_are() -> None:
    assert flags(args=["--temp", "0.7"])[-2:] == ("--temp", "0.7")


def test_remote_code_is_trusted_only_when_asked_for() -> None:
    assert "--trust-remote-code" not in flags()
    settings = Settings.model_validate({"model": {"trust_remote_code": True}})
    assert "--trust-remote-code" in server_flags(settings, FOLDER)
