"""What the benchmarks work out and write down, without running them."""

from __future__ import annotations

import pytest

from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.batch import kv, peak
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.sequence import SequenceDemand, Serving
from tests.bench import curves, document, law, load, soak
from tests.bench.law_stand import Answer
from tests.bench.overhead import Rounds


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_larger_sizes(power: float) -> None:
    sizes = [10.0, 100.0, 1_000.0, 10_000.0]
    assert curves.exponent(sizes, [7.0, 1.0, *(3 * size**power for size in sizes[2:])]) == pytest.approx(
        power
    )


def test_a_slope_and_its_noise() -> None:
    exact, none = soak.slope([0, 1, 2, 3], [5, 7, 9, 11])
    assert (exact, none) == (pytest.approx(2), pytest.approx(0))
    flat, noise = soak.slope([0, 1, 2, 3], [5, 7, 5, 7])
    assert abs(flat) < 2 * noise


def test_what_is_added_is_compared_within_a_round() -> None:
    rounds = Rounds()
    for direct, guarded in ((1.0, 3.0), (10.0, 12.5)):
        rounds.add("direct", {"p50": direct})
        rounds.add("guard", {"p50": guarded})
    assert rounds.added("guard", "p50") == [2.0, 2.5]
    assert rounds.ratio("p50", "guard", "direct") == pytest.approx((3.0 + 1.25) / 2)


def test_times_are_read_by_their_names() -> None:
    assert load._read_times(b"first 1000000\nchunk 5\nchunk 7\n") == {"first": [1.0], "chunk": [5e-6, 7e-6]}


def test_quantiles_and_spread() -> None:
    assert load.quantile([4, 1, 3, 2], 0.5) == 3
    assert load.quantile(range(1000), 0.999) == 999
    assert load.spread([1.0]) == 0.0
    assert load.spread([1, 2, 3, 4, 5, 6, 7]) == pytest.approx(2.0)


def test_a_table_goes_to_its_place_and_again() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    table = document.Table(("", "x"), [("y", "1")]).markdown()
    placed = document.placed(page, "a", table)
    assert placed == "before\n<!-- a -->\n\n|  | x |\n| --- | --- |\n| y | 1 |\n\n<!-- /a -->\nafter\n"
    assert document.placed(placed, "a", table) == placed
    with pytest.raises(ValueError, match="no place"):
        document.placed(page, "b", table)


PARTS = ("overhead", "startup", "session", "curves", "soak", "survival", "endurance")


@pytest.mark.parametrize("part", PARTS)
def test_every_table_has_its_place_in_the_page(part: str) -> None:
    page = document.PAGE.read_text()
    assert document.placed(page, part, "x") != page


def test_the_law_is_asked_at_each_grant_with_what_was_left_behind() -> None:
    traced = Traced(CostModel((CachePart(GrowthKind.GROWING, 1000),)))
    serving = Serving(Model(0, traced.cost_model, traced, batched=True), 512, 2, 2, 10)
    sent = [law.Sent(_answer(start, end), at) for at, start, end in ((0, 9, 3), (1, 9, 9), (4, 9, 9))]
    one, pair = [SequenceDemand(300, 10, segments=1)], [SequenceDemand(300, 10, segments=1)] * 2
    at_the_last = peak(serving, pair, 7 + kv(serving, pair)).total
    assert law.predicted(serving, sent, (), 7) == at_the_last > peak(serving, pair, 7).total
    assert law.predicted(serving, sent[:1], (), 7) == peak(serving, one, 7).total


def test_what_telemetry_tells_lowers_what_was_left_behind_and_never_raises_it() -> None:
    traced = Traced(CostModel((CachePart(GrowthKind.GROWING, 1000),)))
    serving = Serving(Model(0, traced.cost_model, traced, batched=True), 512, 2, 2, 10)
    sent = [law.Sent(_answer(start, end), at) for at, start, end in ((0, 2, 3), (1, 9, 9), (5, 9, 9))]
    without = law.predicted(serving, sent, (), 7)
    assert law.predicted(serving, sent, [(4.0, 1000)], 7) < without
    assert law.predicted(serving, sent, [(4.0, 10**9)], 7) == without


def _answer(start: float, end: float) -> Answer:
    messages = [{"role": "user", "content": "1"}]
    return Answer(messages, prompt=300, completion=10, started_at=start, ended_at=end)


def test_an_error_above_zero_is_a_prediction_that_was_too_high() -> None:
    assert law.Run(predicted=120, measured=100).error == pytest.approx(0.2)
