"""Tiny requests against the server's own prompt cache, and when to stop."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.displacement import RECYCLE_S, Displacing, Recycles, tiny


def test_no_tiny_request_begins_as_another_does() -> None:
    texts = [
        each.body["messages"][0]["content"] if each.abandon else each.body["prompt"]
        for each in map(tiny, range(100))
    ]
    assert len({*texts}) == len(texts)
    assert len({len(text) for text in texts}) == 1


def _pushed_out(entries: dict[str, int], size: int, sent: int) -> int:
    """How many of the old entries LRUPromptCache has dropped (its `pop`, of answers and prompts)."""
    old, new = dict(entries), {"answer": 0, "prompt": 0}
    for number in range(sent):
        new["prompt" if tiny(number).abandon else "answer"] += 1
        if sum(old.values()) + sum(new.values()) > size:
            count = {kind: old[kind] + new[kind] for kind in old}
            kind = "answer" if count["answer"] and count["answer"] >= count["prompt"] else "prompt"
            from_ = old if old[kind] else new  # oldest first
            from_[kind] -= 1
    return sum(entries.values()) - sum(old.values())


@given(st.integers(0, 10))
def test_both_kinds_by_turns_empty_a_cache_however_it_is_filled(answers: int) -> None:
    entries = {"answer": answers, "prompt": 10 - answers}
    assert _pushed_out(entries, 10, 20) == 10


def test_it_ends_when_it_helps_no_more_or_has_gone_on_for_long() -> None:
    going = Displacing.begin(1000, entries=10)
    for _ in range(8):
        assert not going.exhausted
        going = going.after(999, 1)
    assert going.exhausted

    going = Displacing.begin(100_000, entries=10)
    for active in range(99_000, 79_000, -1000):
        assert not going.exhausted
        going = going.after(active, 1)
    assert going.exhausted
    assert going.best == 80_000


def test_a_large_cache_takes_more() -> None:
    going = Displacing.begin(100_000, entries=50)
    for active in range(99_000, 79_000, -1000):
        going = going.after(active, 1)
    assert not going.exhausted


@given(st.lists(st.floats(0, 5000), max_size=100))
def test_recycles_get_rarer(pauses: list[float]) -> None:
    recycles, now, times = Recycles(), 0.0, []
    for pause in pauses:
        now += pause
        if recycles.due(now):
            recycles, times = recycles.after(now), [*times, now]
    gaps = [b - a for a, b in pairwise(times)]
    assert all(gap >= RECYCLE_S * 2**number for number, gap in enumerate(gaps))
