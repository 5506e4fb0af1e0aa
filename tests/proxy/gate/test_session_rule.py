"""The rule of sessions in the gate, on a virtual clock: its gain, its promise, where it changes nothing."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from proxy.gate.session_turns import longest_wait_s
from tests.support.recorded_sessions import Session, fitting, load
from tests.support.session_simulation import M4_MAX, Figures, Simulation, mean

#: One request at a time, and entries enough for all: memory decides what stays.
ALONE = {
    "decode_concurrency": 1,
    "prompt_concurrency": 1,
    "prompt_cache_size": 10,
    "prompt_cache_bytes": int(M4_MAX.ceiling),
}
HOURS = 3.0


@cache
def sessions(seed: int, fit: float) -> list[Session]:
    return fitting(load(None, seed), M4_MAX.room, fit)[0]


def simulated(
    slots: int, seed: int, fit: float, *, rule: bool, bound_s: float = 600.0, **overrides: Any
) -> Figures:
    simulation = Simulation(
        M4_MAX, sessions(seed, fit), slots, seed, HOURS, rule=rule, overrides=overrides, bound_s=bound_s
    )
    return simulation.run()


@pytest.mark.parametrize(("slots", "gain"), [(6, 1.9), (4, 1.6)])
def test_where_three_fit_more_turns_are_made_than_in_order_of_arrival(slots: int, gain: float) -> None:
    seeds = range(6)
    before = mean(simulated(slots, seed, 3, rule=False).turns_h for seed in seeds)
    found = [simulated(slots, seed, 3, rule=True, **ALONE) for seed in seeds]
    assert mean(each.turns_h for each in found) >= gain * before
    assert mean(each.cached for each in found) >= 0.55


@pytest.mark.parametrize(("slots", "fit"), [(1, 3), (2, 12), (3, 12)])
@pytest.mark.parametrize("overrides", [ALONE, {}])
def test_one_session_and_sessions_that_all_fit_are_decided_as_before(
    slots: int, fit: float, overrides: dict[str, Any]
) -> None:
    for seed in range(2):
        before = simulated(slots, seed, fit, rule=False, **overrides)
        found = simulated(slots, seed, fit, rule=True, **overrides)
        if before.grants != found.grants:  # where memory was short for a moment, as much is done
            assert slots > 1
            assert found.turns_h >= 0.97 * before.turns_h


@pytest.mark.parametrize("seed", range(16))
def test_nobody_waits_longer_than_is_promised(seed: int) -> None:
    rng = random.Random(seed)
    bound_s = rng.choice((60.0, 300.0, 600.0, 1200.0))
    slots, fit = rng.choice((3, 4, 6, 8, 12)), rng.choice((1.8, 3, 5, 12))
    found = simulated(slots, seed, fit, rule=True, bound_s=bound_s, **rng.choice((ALONE, {})))
    assert found.waits
    for ask in found.waits:
        waited = (HOURS * 3600 if ask.begun is None else ask.begun) - ask.arrived
        assert waited <= longest_wait_s(ask.ahead, found.longest_read_s, found.longest_turn_s, bound_s)
