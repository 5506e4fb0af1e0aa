"""A place ends once: when its request has left and the last who keeps it is done."""

from __future__ import annotations

from proxy.gate.slot import RetainedSlots


def test_one_that_nobody_keeps_ends_when_it_leaves() -> None:
    assert RetainedSlots().leave("a")


def test_one_that_is_kept_ends_with_the_last_keeper() -> None:
    kept = RetainedSlots()
    kept.keep("a")
    kept.keep("a")
    assert not kept.leave("a")
    assert kept.leaving == 1
    assert not kept.release("a")
    assert kept.release("a")
    assert kept.leaving == 0


def test_one_that_is_released_before_it_leaves_ends_then() -> None:
    kept = RetainedSlots()
    kept.keep("a")
    assert not kept.release("a")
    assert kept.leave("a")
