"""Eviction plans: just enough, by answers alone where they do, and as the server's own cache really drops."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache.eviction_plan import EvictionPlan, plan_eviction
from proxy.gate.residents import KeptSequence
from tests.support.prompt_cache import definitions

FILLER = 1
CLASSES = definitions()


def kept(*sessions: str, kind: str = "assistant") -> list[KeptSequence]:
    return [KeptSequence(session, 10, 10, 0.0, kind) for session in sessions]


def planned(sequences: list[KeptSequence], needed: int, size: int = 4) -> EvictionPlan:
    return plan_eviction(sequences, size=size, needed=needed, filler_bytes=FILLER)


def test_the_oldest_go_and_none_more_than_needed() -> None:
    found = planned(kept("a", "b", "c", "d"), 9)
    assert found == EvictionPlan(("assistant",), tuple(kept("a")))
    assert [each.session for each in planned(kept("a", "b", "c", "d"), 10).dropped] == ["a", "b"]


def test_free_places_are_filled_first() -> None:
    found = planned(kept("a", "b"), 5)
    assert found.fillers == ("assistant",) * 3
    assert found.dropped == tuple(kept("a"))


def test_nothing_is_sent_where_nothing_is_needed_or_kept() -> None:
    assert planned(kept("a", "b", "c", "d"), 0) == EvictionPlan()
    assert planned([], 100) == EvictionPlan()


def test_prompts_are_dropped_by_answers_while_there_are_fewer_answers() -> None:
    sequences = [*kept("a"), *kept("b", "c", "d", kind="user")]
    assert planned(sequences, 9) == EvictionPlan(("assistant",), tuple(kept("b", kind="user")))


def test_prompts_that_answers_do_not_reach_are_dropped_by_prompts() -> None:
    sequences = [*kept("a", "b"), *kept("c", "d", kind="user")]
    found = planned(sequences, 25)
    assert [each.session for each in found.dropped] == ["a", "b", "c"]
    assert found.fillers == ("assistant", "assistant", "user")


_KINDS = st.sampled_from(["assistant", "user"])


@settings(deadline=None)
@given(st.lists(_KINDS, max_size=10), st.integers(1, 10), st.integers(0, 120))
def test_it_is_minimal_and_enough_if_that_can_be(kinds: list[str], size: int, needed: int) -> None:
    sequences = [KeptSequence(str(n), 10, 10, 0.0, kind) for n, kind in enumerate(kinds[:size])]
    found = planned(sequences, needed, size)
    assert len({*found.dropped}) == len(found.dropped)
    if len(found.dropped) < len(sequences):
        assert _freed(found) >= needed
    if found.dropped:
        assert _freed(found) - 10 + FILLER < needed  # without the last one it would not have been enough


def _freed(plan: EvictionPlan) -> int:
    return sum(each.bytes for each in plan.dropped) - FILLER * len(plan.fillers)


@settings(deadline=None)
@given(st.lists(_KINDS, max_size=8), st.integers(2, 8), st.integers(1, 80))
def test_the_servers_own_cache_drops_what_is_planned(kinds: list[str], size: int, needed: int) -> None:
    cache = CLASSES["LRUPromptCache"](max_size=size)
    sequences = [KeptSequence(str(n), 10, 10, 0.0, kind) for n, kind in enumerate(kinds[:size])]
    for number, sequence in enumerate(sequences):
        cache.insert_cache("model", [100 + number, 1], [Untrimmable()], cache_type=sequence.kind)
    found = planned(sequences, needed, size)
    for number, kind in enumerate(found.fillers):
        cache.insert_cache("model", [1000 + number, 1], [Untrimmable()], cache_type=kind)
    left = {
        sequence
        for number, sequence in enumerate(sequences)
        if cache.fetch_nearest_cache("model", [100 + number, 1, 2])[1] == [2]
    }
    assert left == {*sequences} - {*found.dropped}


class Untrimmable:
    nbytes = 10

    def is_trimmable(self) -> bool:
        return False
