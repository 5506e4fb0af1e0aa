from __future__ import annotations

import pytest

from proxy.errors import Unavailable
from proxy.http.body_budget import BodyBudget


def test_all_accounts_share_the_budget_and_return_what_they_used() -> None:
    budget = BodyBudget(100)
    with budget.account() as one:
        one.add(60)
        with budget.account() as other, pytest.raises(Unavailable):
            other.add(30)
            other.add(20)
        assert budget.used == 60, "the other gave back what it had"
        one.add(40)
    assert budget.used == 0
