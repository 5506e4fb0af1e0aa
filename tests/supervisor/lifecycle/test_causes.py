"""The table of causes is complete."""

from __future__ import annotations

from supervisor.lifecycle.causes import CAUSE_INFO, IGNORES_SIGINT, Cause, Symptom
from supervisor.lifecycle.restart_policy import Retry


def test_every_cause_has_one_line_of_explanation() -> None:
    assert set(CAUSE_INFO) == set(Cause)
    for info in CAUSE_INFO.values():
        assert info.explanation.endswith(".")
        assert "\n" not in info.explanation


def test_planned_ends_and_hopeless_causes_are_not_counted() -> None:
    assert {cause for cause in Cause if CAUSE_INFO[cause].retry is Retry.NEVER} == {
        Cause.BAD_MODEL,
        Cause.UNSUPPORTED_FLAG,
        Cause.SERVER_MISSING,
        Cause.FILE_LIMIT,
    }
    assert CAUSE_INFO[Cause.OWN_STOP].retry is CAUSE_INFO[Cause.RECYCLED].retry is Retry.FREE


def test_a_dead_thread_and_a_failed_load_still_react_to_sigint() -> None:
    assert {Symptom.WEDGE, Symptom.START_TIMEOUT, Symptom.PORT_TAKEN} == IGNORES_SIGINT
