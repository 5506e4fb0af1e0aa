"""The planned cost model as the gate asks it."""

from __future__ import annotations

import pytest

from proxy.gate.costs import PlannedCosts, budget, longest_alone
from supervisor.memory_model import batch
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan
from supervisor.memory_model.sequence import MOST_SEGMENTS, SequenceDemand, Serving

ROW = 1000
LAW = CostModel((CachePart(GrowthKind.GROWING, ROW),))
MODEL = Model(weights=5_000_000, cost_model=LAW, traced=Traced(LAW), batched=True)
COSTS = PlannedCosts(Serving(MODEL, step=512, decodes=8, prompts=2, prompt_cache_size=10))


def test_it_is_the_batch_cost_model() -> None:
    demands = [SequenceDemand(1000, 24), SequenceDemand(10, 10)]
    members = [SequenceDemand(1000, 24), SequenceDemand(10, 10)]
    assert COSTS.weights == 5_000_000
    assert COSTS.kv(demands) == batch.kv(COSTS.serving, members)
    assert COSTS.peak(demands, 77) == batch.peak(COSTS.serving, members, 77).total
    assert COSTS.peak([], 77) == 5_000_077


def test_a_correction_multiplies_all_but_weights_and_retained_memory() -> None:
    one, two = [SequenceDemand(1000)], [SequenceDemand(1000), SequenceDemand(1000)]
    corrected = COSTS.corrected(1.5, 1.2)
    for demands, factor in ((one, 1.5), (two, 1.2)):
        beside = COSTS.peak(demands, 0) - COSTS.weights
        assert corrected.peak(demands, 900) == pytest.approx(COSTS.weights + 900 + factor * beside, abs=1)
    assert corrected.corrected(1.0, 1.0) == COSTS


def test_memory_left_behind_and_memory_freed_by_the_next_request() -> None:
    demands, members = (
        [SequenceDemand(1000, 24), SequenceDemand(10, 10)],
        [SequenceDemand(1000, 24), SequenceDemand(10, 10)],
    )
    assert COSTS.left(demands) == batch.kv(COSTS.serving, members) > 0
    assert COSTS.stale(demands[0]) == batch.stale(COSTS.serving, members[0])


def test_a_prompt_that_is_read_in_more_segments_costs_more() -> None:
    few, most, default = (
        COSTS.peak([demand] * 3, 0)
        for demand in (
            SequenceDemand(300, 24, segments=1),
            SequenceDemand(300, 24, segments=MOST_SEGMENTS),
            SequenceDemand(300, 24),
        )
    )
    assert few < most == default


def test_the_largest_prompt_is_the_largest_that_fits_alone() -> None:
    for costs in (COSTS, COSTS.corrected(1.3, 1.0), COSTS.corrected(0.8, 1.0)):
        largest = costs.largest_prompt(30_000_000, 100)
        assert (
            costs.peak([SequenceDemand(largest, 100)], 0)
            <= 30_000_000
            < costs.peak([SequenceDemand(largest + 1, 100)], 0)
        )


def a_plan(room: int) -> Plan:
    return plan(
        MODEL, Ceiling(MODEL.weights + room, "a test"), FlagOverrides(own_command=True), frozenset(), 32_768
    )


def test_the_budget_is_what_the_plan_leaves() -> None:
    planned = a_plan(room=200_000_000)
    shared = budget(planned)
    assert shared.ceiling == MODEL.weights + 200_000_000
    assert shared.max_running == planned.running
    assert shared.max_active_kv_bytes == planned.max_active_kv
    assert shared.costs == PlannedCosts(planned.serving)


def test_a_ceiling_under_which_hardly_anything_fits_refuses_nothing() -> None:
    assert budget(a_plan(room=1_000_000)).ceiling is None
    assert longest_alone(a_plan(room=1_000_000)) is None


def test_the_longest_prompt_alone_leaves_room_for_an_answer() -> None:
    planned = a_plan(room=20_000_000)
    assert longest_alone(planned) == planned.max_prompt
    assert 0.9 * planned.fits[1] < planned.max_prompt < planned.fits[1]
