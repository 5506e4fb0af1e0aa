from __future__ import annotations

import pytest

from proxy.errors import Unavailable
from proxy.http.body_budget import BodyBudget


def test_what_requests_hold_is_bounded_together_and_given_back() -> None:
    budget = BodyBudget(100)
    with budget.account() as one:
        one.add(60)
        with budget.account() as other, pytest.raises(Unavailable):
            other.add(30)
            other.add(20)
        assert budget.used == 60, "the other gave back what it had"
        one.add(40)
    assert budget.used == 0
