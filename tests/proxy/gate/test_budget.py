"""What running requests may hold together, in bytes."""

from __future__ import annotations

from proxy.gate.budget import FREE, Budget
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.padded_costs import PaddedCosts

BUDGET = Budget(max_running=8, max_active_kv_bytes=500, ceiling=810, recent_ceiling=1010, costs=PaddedCosts())


def test_a_newcomer_must_fit_under_both_limits() -> None:
    assert BUDGET.has_room([SequenceDemand(200)], SequenceDemand(250), 0)
    assert not BUDGET.has_room([SequenceDemand(200)], SequenceDemand(251), 0), (
        "twice 251 is more KV than is allowed"
    )
    assert not BUDGET.has_room([SequenceDemand(200)], SequenceDemand(250), 301), (
        "500 and 10 and 301 are above the ceiling"
    )


def test_a_request_that_runs_alone_is_held_to_the_ceiling_only() -> None:
    assert BUDGET.has_room([], SequenceDemand(800), 0)
    assert not BUDGET.has_room([], SequenceDemand(800), 1)


def test_a_request_that_fits_under_the_recent_ceiling_may_wait() -> None:
    assert BUDGET.ever_fits(SequenceDemand(1000))
    assert not BUDGET.ever_fits(SequenceDemand(1001))
    assert BUDGET.largest_prompt(completion=100) == 900


def test_without_a_plan_nothing_is_refused() -> None:
    free = Budget(max_running=1)
    assert free.ever_fits(SequenceDemand(10**9))
    assert free.has_room([SequenceDemand(10**9)], SequenceDemand(10**9), 10**12)
    assert (FREE.weights, FREE.corrected(2.0, 2.0)) == (0, FREE)
