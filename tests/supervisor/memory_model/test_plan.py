"""The plan's decisions, for models and machines of real sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.batch import peak
from supervisor.memory_model.ceiling import Bound, Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind, Quantization
from supervisor.memory_model.plan import COMPLETION, Plan, least_answer, plan, with_answer
from supervisor.memory_model.sequence import SequenceDemand

FLAGS = frozenset(
    {
        "--prefill-step-size",
        "--decode-concurrency",
        "--prompt-concurrency",
        "--prompt-cache-bytes",
        "--prompt-cache-size",
    }
)
#: As Qwen3-30B-A3B in 4 bits on a Mac: 98,304 bytes of KV per token.
MOE = Traced(
    cost_model=CostModel((CachePart(GrowthKind.GROWING, 98_304, quantizable=True),)),
    attention=((32, 128, 128),),
    layer_width=45_000,
    vocabulary=151_936,
    backend="metal",
)
WEIGHTS = 17 * 10**9
CONTEXT = 262_144


def make(
    gigabytes: float,
    traced: Traced = MOE,
    overrides: FlagOverrides | None = None,
    offered: frozenset[str] = FLAGS,
) -> Plan:
    model = Model(weights=WEIGHTS, cost_model=traced.cost_model, traced=traced, batched=traced.batched)
    ceiling = Ceiling(round(gigabytes * 10**9), "a test")
    return plan(model, ceiling, overrides or FlagOverrides(), offered, CONTEXT)


def test_what_the_plan_lets_run_fits_under_the_ceiling() -> None:
    for gigabytes in (20, 24, 32, 48, 96, 192):
        found = make(gigabytes)
        assert found.cache_limit is not None
        for members, rows in found.fits.items():
            if rows:
                total = peak(found.serving, [SequenceDemand(rows, 0)] * members).total
                assert total + found.cache_limit.value <= gigabytes * 10**9


def test_more_memory_never_means_less() -> None:
    plans = [make(gigabytes) for gigabytes in (20, 24, 32, 48, 96, 192)]
    for name in ("prefill_step_size", "decode_concurrency", "prompt_cache_bytes"):
        values = [each.value(name) for each in plans]
        assert values == sorted(values), name
    prompts = [each.max_prompt or 0 for each in plans]
    assert prompts == sorted(prompts)


def test_a_roomy_machine_runs_sessions_together_and_takes_the_whole_context() -> None:
    found = make(192)
    assert found.running == found.value("decode_concurrency") == 8
    assert found.value("prompt_concurrency") == 4
    assert found.value("prefill_step_size") == 2048
    assert found.max_prompt == CONTEXT
    assert found.advice == ()


def test_room_for_an_answer_is_a_small_part_of_a_small_machine() -> None:
    assert with_answer(100_000) == 100_000 - COMPLETION
    assert with_answer(1600) == 1550


def test_a_prompt_limit_that_is_set_stands() -> None:
    assert make(24, overrides=FlagOverrides(max_prompt_tokens=999)).max_prompt == 999


def test_a_flag_that_the_server_lacks_is_not_given() -> None:
    found = make(96, offered=FLAGS - {"--prompt-cache-bytes"})
    given = {choice.name: choice.given for choice in found.choices}
    assert given == {**dict.fromkeys(given, True), "prompt_cache_bytes": False}
    assert "this server has no --prompt-cache-bytes" in [choice.reason for choice in found.choices]


def test_a_server_without_help_gets_no_flags() -> None:
    found = make(96, offered=frozenset())
    assert not any(choice.given for choice in found.choices)
    assert any("--help" in warning for warning in found.warnings)


def test_requests_that_cannot_be_batched_wait_at_the_gate() -> None:
    found = make(192, traced=replace(MOE, batched=False))
    assert found.running == 1


def test_the_gate_keeps_the_running_within_their_share() -> None:
    found = make(48)
    assert found.model.cost_model.bytes_per_row == 98_304
    assert found.max_active_kv is not None
    assert 0 < found.max_active_kv < found.headroom / 2


def test_a_model_of_states_has_no_cost_per_row() -> None:
    found = make(48, traced=replace(MOE, cost_model=CostModel((CachePart(GrowthKind.CONSTANT, 10**8),))))
    assert (found.model.cost_model.bytes_per_row, found.max_active_kv) == (0, None)
    assert found.max_prompt == CONTEXT


def test_weights_that_do_not_fit_are_told_and_limit_nothing_else() -> None:
    found = make(10)
    assert found.fits[1] == 0
    assert found.max_prompt == CONTEXT
    assert any("The weights (17.0 GB) are larger" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("ceiling", "words"),
    [
        (Ceiling(48 * 10**9, "set", exceeds=Bound(20 * 10**9, "memory free now")), "there is only 20.0 GB"),
        (Ceiling(48 * 10**9, "Metal", wired_mb=57_344), "sudo sysctl iogpu.wired_limit_mb=57344"),
    ],
)
def test_what_the_machine_could_do_is_said(ceiling: Ceiling, words: str) -> None:
    model = Model(weights=WEIGHTS, cost_model=MOE.cost_model, traced=MOE, batched=True)
    found = plan(model, ceiling, FlagOverrides(), FLAGS, CONTEXT)
    assert any(words in line for line in (*found.warnings, *found.advice))


def test_packed_kv_is_advised_where_it_fits_more() -> None:
    assert any("--kv-bits" in line for line in make(32).advice)
    windows = replace(MOE, rotating=True)
    assert not any("--kv-bits" in line for line in make(32, traced=windows).advice)


def test_packed_kv_with_windows_is_warned_of() -> None:
    cost_model = replace(MOE.cost_model, quantization=Quantization(8))
    model = Model(weights=WEIGHTS, cost_model=cost_model, traced=replace(MOE, rotating=True), batched=False)
    found = plan(model, Ceiling(48 * 10**9, "a test"), FlagOverrides(), FLAGS, CONTEXT)
    assert any("requests fail from token 5,000" in warning for warning in found.warnings)


def test_a_bound_is_called_a_bound() -> None:
    found = make(48, traced=replace(MOE, reason="it is odd"))
    assert any("upper bound" in warning and "it is odd" in warning for warning in found.warnings)


def test_the_log_line_has_the_numbers() -> None:
    summary = make(48).summary()
    assert summary["weights"] == WEIGHTS
    assert summary["prefill_step_size"] in (256, 512, 1024, 2048)


def test_costs_are_asked_for_as_the_child_will_run() -> None:
    found = make(48)
    serving = found.serving
    assert (serving.step, serving.decodes) == (found.value("prefill_step_size"), found.running)
    assert serving.prompt_cache_size == found.value("prompt_cache_size")
    assert make(48, offered=frozenset()).serving.decodes == 32  # the server's own default
    assert make(48, traced=replace(MOE, batched=False)).serving.decodes == 1


@pytest.mark.parametrize("rows", [*range(32, 3000, 7), 31_744, 32_768, 40_000, 131_072])
def test_the_least_answer_fits_next_to_the_longest_prompt(rows: int) -> None:
    prompt = with_answer(rows)
    assert 1 <= least_answer(prompt) <= rows - prompt
