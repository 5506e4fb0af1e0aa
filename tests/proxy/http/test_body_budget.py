from __future__ import annotations

import pytest

from proxy.errors import Unavailable
from proxy.http.body_budget import FREE_BYTES, BodyBudget


def test_all_accounts_share_the_budget_and_return_what_they_used() -> None:
    budget = BodyBudget(200)
    with budget.account("a") as one:
        one.add(FREE_BYTES)
        assert budget.used == 0
        one.add(90)
        with budget.account("b") as other, budget.account("c") as third, pytest.raises(Unavailable):
            other.add(FREE_BYTES + 80)
            third.add(FREE_BYTES)
            third.add(20)
            third.add(20)
        assert budget.used == 90, "the others gave back what they had"
        one.add(10)
    assert budget.used == 0


def test_one_client_has_at_most_half_of_the_budget() -> None:
    budget = BodyBudget(200)
    with budget.account("greedy") as one, budget.account("greedy") as two:
        one.add(FREE_BYTES + 60)
        with pytest.raises(Unavailable):
            two.add(FREE_BYTES + 60)
        with budget.account("honest") as other:
            other.add(FREE_BYTES + 100)


def test_a_small_body_is_never_refused() -> None:
    budget = BodyBudget(100)
    with budget.account("a") as one, budget.account("b") as two, budget.account("c") as small:
        one.add(FREE_BYTES + 50)
        two.add(FREE_BYTES + 50)
        small.add(FREE_BYTES)
        with pytest.raises(Unavailable):
            small.add(1)
