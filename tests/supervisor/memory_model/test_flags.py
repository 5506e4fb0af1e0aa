"""The flags' values and reasons, as the plan puts them together."""

from __future__ import annotations

from dataclasses import replace

from supervisor.memory_model.activations import Model
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import plan, with_answer
from tests.supervisor.memory_model.test_plan import CONTEXT, FLAGS, MOE, make


def test_a_tight_machine_runs_one_at_a_time_by_both_flags() -> None:
    """generate.py takes the larger of the two, so one alone does nothing."""
    found = make(19)
    assert found.running == 1
    assert found.value("decode_concurrency") == found.value("prompt_concurrency") == 1
    assert found.value("prompt_cache_size") == 10, "entries pin nothing but themselves"
    assert found.max_prompt is not None
    assert found.max_prompt == with_answer(found.fits[1])


def test_how_many_run_is_for_short_sessions_and_how_many_long_ones_do_is_not_a_flag() -> None:
    found = make(48)
    assert found.running == found.value("decode_concurrency") == 8
    assert found.fits[8] < 32_768 < found.fits[2], "eight of those do not fit, which is left to the gate"
    reasons = {choice.name: choice.reason for choice in found.choices}
    assert "8 sessions of 4,096 tokens fit" in reasons["decode_concurrency"]


def test_every_session_that_runs_has_an_entry_in_the_prompt_cache_if_half_as_long_ones_fit() -> None:
    """On a card of 80 GB, 7 entries for 8 sessions cost a third of the speed; 56 GB allow no more."""

    def cache_size(ceiling: int) -> tuple[int, str]:
        dense = CostModel((CachePart(GrowthKind.GROWING, row_bytes=147_456),))
        model = Model(
            weights=9 * 10**9, cost_model=dense, traced=replace(MOE, cost_model=dense), batched=True
        )
        found = plan(model, Ceiling(ceiling * 10**9, "a test"), FlagOverrides(), FLAGS, 65_536)
        assert found.running == 8
        reasons = {choice.name: choice.reason for choice in found.choices}
        return found.value("prompt_cache_size"), reasons["prompt_cache_size"]

    assert cache_size(56) == (4, "4 sessions of 32,768 tokens fit in that")
    assert cache_size(80) == (10, "10 sessions of 16,384 tokens fit in that")
    assert cache_size(140) == (10, "13 sessions of 32,768 tokens fit in that")


def test_what_is_set_wins_and_says_so() -> None:
    overrides = FlagOverrides(
        prefill_step_size=128, decode_concurrency=3, prompt_cache_bytes=7, max_active_kv_bytes=9
    )
    found = make(96, overrides=overrides)
    assert found.value("prefill_step_size") == 128
    assert found.running == 3
    assert found.max_active_kv == 9
    reasons = {choice.name: choice.reason for choice in found.choices}
    assert reasons["prompt_cache_bytes"] == "set in the configuration"
    assert "set" not in reasons["prompt_cache_size"]


def test_with_an_own_command_nothing_limits_mlxs_cache() -> None:
    assert make(96, overrides=FlagOverrides(own_command=True)).cache_limit is None


def test_sessions_that_gain_nothing_run_one_by_one() -> None:
    """A processor computes the attention of each; they would share next to nothing."""
    small = Model(weights=10**6, cost_model=MOE.cost_model, traced=replace(MOE, backend="cpu"), batched=True)
    found = plan(small, Ceiling(192 * 10**9, "a test"), FlagOverrides(), FLAGS, CONTEXT)
    assert found.running == 1
    assert any("no faster" in choice.reason for choice in found.choices)


def test_a_smaller_step_is_not_taken_where_it_saves_next_to_nothing() -> None:
    """On a card of 80 GB, whose scores under way take the same for 256 and for 1,024 tokens a step."""
    attention, room = ((32, 128, 128),), Ceiling(83 * 10**9, "a test")

    def step(backend: str) -> int:
        traced = replace(MOE, backend=backend, attention=attention, layer_width=19_456)
        model = Model(weights=9 * 10**9, cost_model=MOE.cost_model, traced=traced, batched=True)
        return plan(model, room, FlagOverrides(), FLAGS, 65_536).value("prefill_step_size")

    assert step("cuda") == 1024
    assert step("metal") == 2048, "128 wide: attention is fused"


def test_no_step_fits_and_the_smallest_is_taken() -> None:
    traced = replace(MOE, backend="cpu", attention=((64, 96, 96),), layer_width=19_456)
    model = Model(weights=9 * 10**9, cost_model=MOE.cost_model, traced=traced, batched=True)
    found = plan(model, Ceiling(10 * 10**9, "a test"), FlagOverrides(), FLAGS, 65_536)
    assert found.value("prefill_step_size") == 256
