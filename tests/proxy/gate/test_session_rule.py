"""The rule of sessions in the gate, on a virtual clock: its gain, its promise, where it changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from proxy.gate.admission import Admission, Effect, Grant, Reason, Refuse
from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket
from proxy.gate.residents import CacheContent
from proxy.gate.session_rule import SessionRule
from proxy.gate.session_turns import longest_wait_s
from supervisor.memory_model.sequence import SequenceDemand
from tests.support.padded_costs import PaddedCosts
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


@pytest.mark.parametrize("slots", [1, 3, 6])
@pytest.mark.parametrize("overrides", [ALONE, {}])
def test_where_all_sessions_fit_every_decision_is_as_before(slots: int, overrides: dict[str, Any]) -> None:
    endless = replace(M4_MAX, ceiling=50 * M4_MAX.ceiling)
    runs = [
        Simulation(endless, sessions(1, 3), slots, 1, HOURS, rule=rule, overrides=overrides).run()
        for rule in (False, True)
    ]
    assert runs[0].grants
    assert runs[0].grants == runs[1].grants


@pytest.mark.parametrize(("slots", "fit"), [(1, 3), (2, 12)])
def test_where_memory_is_short_only_for_moments_as_much_is_done(slots: int, fit: float) -> None:
    before, after = (
        mean(simulated(slots, seed, fit, rule=rule).turns_h for seed in range(4)) for rule in (False, True)
    )
    assert after >= 0.97 * before


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


# The gate's answers to single requests, in round numbers: each token is a byte


class World:
    """Three sessions of 1,000 tokens fit beside a running one, and the last swap has just been read."""

    def __init__(self, *sessions: str, max_wait_s: float = 600.0) -> None:
        self.now, self.max_wait_s = 100.0, max_wait_s
        budget = Budget(max_running=1, ceiling=10 + 4300, costs=PaddedCosts())
        self.gate = Admission(budget, max_waiting=64, sessions=SessionRule(max_wait_s))
        contents = [CacheContent(session, 1000, "assistant") for session in sessions]
        self.gate.set_cache(contents, (), self.now)
        self.gate.set_retained(1000 * len(contents), self.now)
        self.gate.sessions._swapped = self.now

    def arrive(self, session: str, cached: int = 0, prompt: int = 1000) -> list[Effect]:
        self.now += 0.001
        demand = SequenceDemand(prompt, 10, cached)
        ticket = Ticket(
            session, session, self.now, self.now + self.max_wait_s, demand, demand, 10, session=session
        )
        return self.gate.arrive(ticket, self.now)


def test_a_cold_session_waits_while_a_resident_may_come_back_though_it_would_fit() -> None:
    world = World("a", "b", "c")
    assert world.arrive("d") == []
    assert world.gate.sessions.outside == ("d",)
    assert world.gate.snapshot(disconnected=0, corrections=(1, 1)).sessions.residents == 3
    until = world.gate.next_deadline()
    assert until == pytest.approx(101, abs=0.1), "as long as reading the displaced session would take"
    (grant,) = world.gate.wake(until)
    assert isinstance(grant, Grant) and grant.id == "d"


def test_memory_is_made_for_a_cold_session_only_when_it_is_let_in() -> None:
    world = World("a", "b", "c")
    world.gate.set_retained(4000, world.now)
    world.arrive("d")
    assert world.gate.snapshot(disconnected=0, corrections=(1, 1)).eviction_needed == 0
    world.gate.wake(world.now + 2)
    snapshot = world.gate.snapshot(disconnected=0, corrections=(1, 1))
    assert snapshot.eviction_needed == 710
    assert snapshot.sessions.first == ("d", "d")


def test_a_resident_passes_a_cold_session() -> None:
    world = World("a", "b", "c")
    world.arrive("d")
    (grant,) = world.arrive("a", cached=1000)
    assert isinstance(grant, Grant) and grant.id == "a"
    assert world.gate.expected_wait_s("d", world.now) is not None
    assert world.gate.expected_wait_s("a", world.now) is None


def test_a_turn_that_cannot_come_in_time_is_refused_at_once_with_the_time_at_which_it_would() -> None:
    world = World("a", "b", "c", max_wait_s=2.5)
    world.arrive("a", cached=1000)  # runs
    effects = [effect for session in "defg" for effect in world.arrive(session)]
    (refused,) = effects
    assert isinstance(refused, Refuse)
    assert (refused.id, refused.reason) == ("g", Reason.TURN_TOO_LATE)
    assert refused.retry_s is not None and refused.retry_s > 2.5


def test_what_ended_is_resident_before_the_simulated_cache_says_so_and_until_it_says_otherwise() -> None:
    world = World("a")
    world.arrive("b")
    world.gate.grew("b", 5, world.now)
    world.gate.leave("b", world.now, measured=True)
    rule = world.gate.sessions
    assert [(each.session, each.rows) for each in rule.sequences] == [("a", 1000), ("b", 1005)]
    world.gate.set_cache([CacheContent("a", 1000, "assistant")], (), world.now)
    assert [each.session for each in rule.sequences] == ["a", "b"], "this was asked for before it ended"
    world.gate.set_cache([CacheContent("a", 1000, "assistant")], ("b",), world.now)
    assert [each.session for each in rule.sequences] == ["a"]
    world.gate.set_cache(None, (), world.now)
    assert rule.sequences == ()


def test_without_a_simulated_cache_requests_run_in_order_of_arrival() -> None:
    world = World()
    (grant,) = world.arrive("a")
    assert isinstance(grant, Grant)
    assert world.arrive("b") == []
    assert world.gate.sessions.outside == ()
