"""Events and effects are values."""

from __future__ import annotations

import pytest

from proxy.gate.events import Grant, Reason, Refuse


def test_effects_are_values() -> None:
    assert Grant("a", 7) == Grant("a", 7)
    assert Refuse("a", Reason.NEVER_FITS, 900) != Refuse("a", Reason.NEVER_FITS, 901)
    with pytest.raises(AttributeError):
        Grant("a").id = "b"  # type: ignore[misc]  # that is the test


def test_reasons_are_what_metrics_count_by() -> None:
    assert [reason.value for reason in Reason] == ["queue_full", "queue_deadline", "never_fits"]
