"""The campaigns that need no server, in short form."""

from __future__ import annotations

from tests.campaign import fuzz, reach


def test_random_input_raises_nothing_but_what_it_may() -> None:
    tried, failures = fuzz.run(3_000, seed=1)
    assert tried == 3_000
    assert failures == {}


def test_bisection_ends_at_the_longest_that_holds() -> None:
    assert reach.longest(lambda tokens: tokens <= 1234, 0, 4096, precision=0) == 1234
    assert reach.longest(lambda _: True, 0, 4096, precision=0) == 4096
    rough = reach.longest(lambda tokens: tokens <= 1234, 0, 4096, precision=1 / 64)
    assert 1234 * (1 - 1 / 16) <= rough <= 1234
