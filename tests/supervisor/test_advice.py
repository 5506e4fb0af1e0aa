"""Advice has values, and they come from what was running."""

from __future__ import annotations

import pytest

from supervisor.advice import Facts, advise
from supervisor.diagnosis import NATURES, Cause
from supervisor.inquest import AtWork


def work(tokens: int) -> AtWork:
    return AtWork("id", "f", tokens, 10, 0, "prefill", None, 1, 1.0)


def test_one_prompt_that_was_enough_is_to_be_shorter() -> None:
    facts = Facts([work(40_000)], 30_000_000_000, 36_000_000_000, ("--prefill-step-size", "1024"))
    assert advise(Cause.METAL_OOM, facts) == (
        "One prompt of 40000 tokens was enough: set [prompt] max_prompt_tokens = 29952, "
        "or [upstream] prefill_step_size = 512. MLX held up to 30.0 GB of 36.0 GB."
    )


def test_many_together_are_to_be_fewer() -> None:
    advice = advise(Cause.KILLED_BY_SYSTEM, Facts([work(tokens) for tokens in (300, 8000, 700, 900)]))
    assert "4 requests ran together" in advice
    assert "decode_concurrency = 2" in advice
    assert "max_prompt_tokens = 5888" in advice


@pytest.mark.parametrize(("argv", "size"), [((), 5), (("--prompt-cache-size", "3"), 1)])
def test_an_idle_server_keeps_too_much(argv: tuple[str, ...], size: int) -> None:
    assert f"prompt_cache_size = {size}" in advise(Cause.CUDA_OOM, Facts(argv=argv))


def test_a_start_that_took_too_long_gets_more_time() -> None:
    assert "start_timeout_s = 300" in advise(Cause.START_TIMEOUT, Facts(start_timeout_s=150))


def test_the_refused_flag_is_named() -> None:
    lines = ("usage: mlx_lm.server", "mlx_lm.server: error: unrecognized arguments: --shiny 3")
    assert advise(Cause.UNSUPPORTED_FLAG, Facts(last_lines=lines)).startswith("Take --shiny 3 out of")


def test_the_fault_of_a_dead_thread_is_named() -> None:
    lines = ("Traceback (most recent call last):", "TypeError: 'int' object is not iterable", "a later line")
    assert "TypeError: 'int'" in advise(Cause.GENERATION_THREAD_DIED, Facts(last_lines=lines))


@pytest.mark.parametrize("cause", Cause)
def test_there_is_always_some_advice_in_one_line(cause: Cause) -> None:
    advice = advise(cause, Facts())
    assert advice
    assert "\n" not in advice
    if not NATURES[cause].memory and cause is not Cause.START_TIMEOUT:
        assert advice == NATURES[cause].advice, "without facts, what holds in general"


def test_another_program_on_the_same_card_is_named() -> None:
    # Sizes of a real death on an H200, whose memory another program had taken within a second.
    facts = Facts([work(4656)] * 8, 36_250_000_000, 150_754_820_096, elsewhere=121_000_000_000)
    assert advise(Cause.CUDA_OOM, facts).endswith(
        " MLX held up to 36.2 GB of 150.8 GB, other programs 121.0 GB."
    )
