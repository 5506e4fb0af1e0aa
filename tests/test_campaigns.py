"""The campaigns that need no server, in short form."""

from __future__ import annotations

from tests.campaign import fuzz


def test_random_input_raises_nothing_but_what_it_may() -> None:
    tried, failures = fuzz.run(3_000, seed=1)
    assert tried == 3_000
    assert failures == {}
