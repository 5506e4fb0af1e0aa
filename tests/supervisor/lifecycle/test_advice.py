"""Advice names values, worked out from what was running."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.lifecycle.advice import DeathFacts, advise
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.in_flight import InFlight
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan


def work(tokens: int) -> InFlight:
    return InFlight("id", "f", tokens, 10, 0, "prefill", None, 1, 1.0)


def a_plan() -> Plan:
    """24 GB for a model that costs 100 kB per token and has 2 GB of weights."""
    traced = Traced(cost_model=CostModel((CachePart(GrowthKind.GROWING, 100_000),)))
    model = Model(weights=2 * 10**9, cost_model=traced.cost_model, traced=traced, batched=True)
    return plan(model, Ceiling(24 * 10**9, "a test"), FlagOverrides(), frozenset(), None)


def test_a_single_prompt_that_was_too_long_should_be_shorter() -> None:
    facts = DeathFacts([work(40_000)], 30_000_000_000, 36_000_000_000, ("--prefill-step-size", "1024"))
    assert advise(Cause.METAL_OOM, facts) == (
        "A single prompt of 40000 tokens was too much: set [prompt] max_prompt_tokens = 29952, "
        "or [upstream] prefill_step_size = 512. MLX used up to 30.0 GB of 36.0 GB."
    )


def test_fewer_requests_should_run_together() -> None:
    advice = advise(Cause.KILLED_BY_SYSTEM, DeathFacts([work(tokens) for tokens in (300, 8000, 700, 900)]))
    assert "4 requests ran together" in advice
    assert "decode_concurrency = 2" in advice
    assert "max_prompt_tokens = 5888" in advice


@pytest.mark.parametrize(("argv", "size"), [((), 5), (("--prompt-cache-size", "3"), 1)])
def test_an_idle_server_should_cache_less(argv: tuple[str, ...], size: int) -> None:
    assert f"prompt_cache_size = {size}" in advise(Cause.CUDA_OOM, DeathFacts(argv=argv))


def test_a_start_that_took_too_long_gets_more_time() -> None:
    assert "start_timeout_s = 300" in advise(Cause.START_TIMEOUT, DeathFacts(start_timeout_s=150))


def test_the_refused_flag_is_named() -> None:
    lines = ("usage: mlx_lm.server", "mlx_lm.server: error: unrecognized arguments: --shiny 3")
    assert advise(Cause.UNSUPPORTED_FLAG, DeathFacts(last_lines=lines)).startswith("Remove --shiny 3 from")


def test_the_error_of_a_dead_thread_is_named() -> None:
    lines = ("Traceback (most recent call last):", "TypeError: 'int' object is not iterable", "a later line")
    assert "TypeError: 'int'" in advise(Cause.GENERATION_THREAD_DIED, DeathFacts(last_lines=lines))


#: Two cases of each cause, which differ in the facts that the advice depends on.
ARGV = ("--model", "/models/a", "--prefill-step-size", "1024", "--decode-concurrency", "8")
CASES = {
    cause: (
        DeathFacts([work(8000)], argv=ARGV, stall_s=60, start_timeout_s=600, last_lines=("ValueError: one",)),
        DeathFacts(
            [work(4000)],
            argv=("--model", "/models/b", "--prefill-step-size", "256", "--decode-concurrency", "2"),
            command=("/other/server",),
            open_files=256,
            stall_s=10,
            start_timeout_s=60,
            last_lines=("ValueError: two", "error: unrecognized arguments: --two"),
        ),
    )
    for cause in Cause
}
#: There is nothing to set: the next start helps by itself.
SAME = {Cause.PORT_TAKEN}


@pytest.mark.parametrize("cause", sorted(set(Cause) - SAME))
def test_no_advice_is_a_constant(cause: Cause) -> None:
    one, two = CASES[cause]
    assert advise(cause, one) != advise(cause, two)


def test_values_come_from_the_plan_of_the_crash() -> None:
    longest = a_plan().fits[4] + 1
    facts = DeathFacts([work(longest)] * 6, 22 * 10**9, 36 * 10**9, active=22 * 10**9, plan=a_plan())
    assert a_plan().fits[2] >= longest
    advice = advise(Cause.METAL_OOM, facts)
    assert "decode_concurrency = 2 " in advice, "three is half of what ran, but only two fit"
    assert 'is allowed 24.0 GB: set [memory] max_active_memory_bytes = "20.9GB"' in advice
    assert "max_active_memory_bytes" not in advise(Cause.METAL_OOM, replace(facts, active=10**9))


def test_a_full_memory_explains_a_bad_access() -> None:
    full = DeathFacts([work(9000)], active=23 * 10**9, plan=a_plan())
    assert "max_prompt_tokens = " in advise(Cause.SEGFAULT, full)
    roomy = DeathFacts([work(9000)], active=3 * 10**9, plan=a_plan(), versions=("mlx 1.2", "mlx-lm 3.4"))
    assert advise(Cause.SEGFAULT, roomy).startswith("Update mlx and mlx-lm (now mlx 1.2, mlx-lm 3.4).")


def test_memory_that_other_programs_took_should_be_reserved() -> None:
    facts = DeathFacts([work(9000)], total=36 * 10**9, other_growth=19 * 10**8)
    assert 'reserve_system_bytes = "2.0GB"' in advise(Cause.KILLED_BY_SYSTEM, facts)


@pytest.mark.parametrize("cause", Cause)
def test_there_is_always_some_advice_in_one_line(cause: Cause) -> None:
    advice = advise(cause, DeathFacts())
    assert advice
    assert "\n" not in advice


def test_another_program_on_the_same_card_is_named() -> None:
    # Sizes of a real death on an H200, whose memory another program had taken within a second.
    facts = DeathFacts([work(4656)] * 8, 36_250_000_000, 150_754_820_096, other_programs=121_000_000_000)
    assert advise(Cause.CUDA_OOM, facts).endswith(
        " MLX used up to 36.2 GB of 150.8 GB, other programs 121.0 GB."
    )
