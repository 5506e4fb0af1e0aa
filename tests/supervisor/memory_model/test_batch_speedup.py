"""What running together gains: most where the weights are most of what is read; reading gains nothing."""

from __future__ import annotations

import pytest

from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.batch_speedup import speedup
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind

LAW = CostModel((CachePart(GrowthKind.GROWING, 98_304),))


def model(weights: int, backend: str = "metal") -> Model:
    return Model(weights=weights, cost_model=LAW, traced=Traced(LAW, backend=backend), batched=True)


def test_short_sessions_of_a_large_model_gain_most() -> None:
    """Four generate at nearly four times the speed; prompts they read one after the other."""
    assert speedup(model(17 * 10**9), 1, 4) == pytest.approx(2.33, rel=0.01)


def test_long_ones_gain_little_since_each_reads_its_own() -> None:
    assert 1 < speedup(model(17 * 10**9), 10**6, 4) < 1.5
    assert speedup(model(10**6), 32_768, 8) < 1.2


def test_what_a_step_takes_anyway_is_shared_too() -> None:
    """So a tiny model's sessions run together on a GPU, and not where a processor works out each one's."""
    assert speedup(model(10**6), 256, 4) > 2
    assert speedup(model(10**6, "cpu"), 256, 4) < 1.2


def test_where_reading_is_slow_a_large_model_gains_less() -> None:
    assert 1 < speedup(model(17 * 10**9, "cpu"), 4096, 4) < speedup(model(17 * 10**9), 4096, 4)


def test_one_alone_gains_nothing() -> None:
    assert speedup(model(10**9), 1000, 1) == 1
