"""Filler requests against the server's own prompt cache, and when to stop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.eviction import enough, filler


def test_no_filler_begins_as_another_does() -> None:
    texts = [
        each.body["messages"][0]["content"] if each.abandon else each.body["prompt"]
        for each in map(filler, range(100))
    ]
    assert len({*texts}) == len(texts)
    assert len({len(text) for text in texts}) == 1


def _pushed_out(entries: dict[str, int], size: int, sent: int, *, by_turns: bool = True) -> int:
    """How many of the old entries LRUPromptCache has dropped (its `pop`, of answers and prompts)."""
    old, new = dict(entries), {"answer": 0, "prompt": 0}
    for number in range(sent):
        new["prompt" if by_turns and filler(number).abandon else "answer"] += 1
        if sum(old.values()) + sum(new.values()) > size:
            count = {kind: old[kind] + new[kind] for kind in old}
            kind = "answer" if count["answer"] and count["answer"] >= count["prompt"] else "prompt"
            from_ = old if old[kind] else new  # oldest first
            from_[kind] -= 1
    return sum(entries.values()) - sum(old.values())


@given(st.integers(1, 12), st.data())
def test_both_kinds_by_turns_empty_a_cache_however_it_is_filled(size: int, data: st.DataObject) -> None:
    answers = data.draw(st.integers(0, size))
    assert _pushed_out({"answer": answers, "prompt": size - answers}, size, enough(size)) == size


def test_one_kind_alone_would_leave_half_of_it() -> None:
    entries = {"answer": 5, "prompt": 5}
    assert _pushed_out(entries, 10, 20, by_turns=False) == 5


def test_of_a_cache_that_is_not_known_the_servers_default_is_supposed() -> None:
    assert enough(0) == 20
