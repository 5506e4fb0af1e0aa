"""A ceiling that moves, and a child whose plan is narrower than it could be."""

from __future__ import annotations

from proxy.memory.ceiling_history import RECENT_S, REST_S, WIDER_S, PlanWidth, RecentCeilings, Widening

NARROW, WIDE = PlanWidth(1, 30_000), PlanWidth(2, 60_000)


def test_the_highest_recent_ceiling() -> None:
    recent = RecentCeilings().after(50, 0).after(40, 10)
    assert recent.highest == 50
    assert recent.after(40, RECENT_S).highest == 50
    assert recent.after(40, RECENT_S + 1).highest == 40
    assert recent.after(60, 20).highest == 60
    assert RecentCeilings().highest == 0


def test_it_remembers_no_more_than_it_needs() -> None:
    recent = RecentCeilings()
    for second in range(1000):
        recent = recent.after(100 + second % 7, second)
    assert len(recent.entries) <= 8


def test_when_a_plan_is_much_wider() -> None:
    assert PlanWidth(2, 100).much_more_than(PlanWidth(1, 30_000))
    assert not PlanWidth(1, 90_000).much_more_than(PlanWidth(2, 100))
    assert PlanWidth(1, 37_500).much_more_than(NARROW)
    assert not PlanWidth(1, 37_000).much_more_than(NARROW)
    assert PlanWidth(1, None).much_more_than(NARROW)
    assert not NARROW.much_more_than(PlanWidth(1, None))
    assert not PlanWidth(1, None).much_more_than(PlanWidth(1, None))


def test_more_memory_for_a_while_is_worth_a_restart_but_not_often() -> None:
    widening = Widening().after(NARROW, WIDE, 0)
    assert not widening.due(WIDER_S - 1)
    assert widening.after(NARROW, WIDE, 50).due(WIDER_S)
    assert not widening.after(NARROW, NARROW, 50).after(NARROW, WIDE, 60).due(WIDER_S), "it came and went"
    again = Widening(restarted_at=1000.0).after(NARROW, WIDE, 1010)
    assert not again.due(1000 + REST_S - 1)
    assert again.due(1000 + REST_S)
