"""The table of causes is whole."""

from __future__ import annotations

from supervisor.lifecycle.causes import NATURES, Cause
from supervisor.lifecycle.restart_policy import Retry


def test_every_cause_has_one_line_of_explanation() -> None:
    assert set(NATURES) == set(Cause)
    for nature in NATURES.values():
        assert nature.explanation.endswith(".")
        assert "\n" not in nature.explanation


def test_what_is_our_own_doing_or_cannot_heal_is_not_counted() -> None:
    assert {cause for cause in Cause if NATURES[cause].retry is Retry.NEVER} == {
        Cause.BAD_MODEL,
        Cause.UNSUPPORTED_FLAG,
        Cause.SERVER_MISSING,
    }
    assert NATURES[Cause.OWN_STOP].retry is NATURES[Cause.RECYCLED].retry is Retry.FREE
