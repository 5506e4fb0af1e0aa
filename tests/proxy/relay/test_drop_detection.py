"""When the child is done with a request whose client has left."""

from __future__ import annotations

from dataclasses import replace

from proxy.relay.drop_detection import ROUND_S, TIMEOUT_S, DisconnectedRequest, DropEvidence

LEFT = DisconnectedRequest(at=100.0, step_s=2.0)


def test_a_child_with_nothing_to_do_has_dropped_it() -> None:
    assert LEFT.dropped(101, idle_at=100.1) is DropEvidence.IDLE
    assert LEFT.dropped(101, idle_at=99.9) is None, "that was before"


def test_one_that_noticed_needs_one_more_step() -> None:
    noticed = replace(LEFT, noticed=103.0)
    assert noticed.dropped(103.0 + ROUND_S + 1.9, None) is None
    assert noticed.dropped(103.0 + ROUND_S + 2.0, None) is DropEvidence.NOTICED


def test_a_sequential_one_reads_its_whole_prompt_first() -> None:
    noticed = replace(LEFT, noticed=103.0, unread_s=60.0)
    assert noticed.dropped(103.0 + ROUND_S + 61.9, None) is None
    assert noticed.dropped(103.0 + ROUND_S + 62.0, None) is DropEvidence.NOTICED
    assert noticed.dropped(104.0, idle_at=103.9) is DropEvidence.IDLE


def test_without_any_sign_time_decides() -> None:
    assert LEFT.dropped(100 + TIMEOUT_S + 5.9, None) is None
    assert LEFT.dropped(100 + TIMEOUT_S + 6.0, None) is DropEvidence.TIMEOUT
    assert replace(LEFT, unread_s=10.0).dropped(100 + TIMEOUT_S + 25.9, None) is None
