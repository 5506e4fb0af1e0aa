from __future__ import annotations

import pytest

from tests import figures
from tests.figures import Bar, bar


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"),
    [(1, False, "ok"), (3, False, "short"), (3, True, "ok"), (1, True, "short")],
)
def test_a_bar_prints_its_verdict(
    capsys: pytest.CaptureFixture[str], value: float, at_least: bool, verdict: str
) -> None:
    assert bar("latency_ms", value, 2, at_least=at_least) is (verdict == "ok")
    printed = capsys.readouterr().out
    assert printed == f"bar: latency_ms {value} 2 {verdict}\n"
    assert Bar.read(printed) == Bar("latency_ms", str(value), "2", verdict == "ok")


@pytest.mark.parametrize("line", ["", "bar: a 1 2", "bar: a 1 2 fine", "the bar: a 1 2 ok"])
def test_other_lines_are_no_bars(line: str) -> None:
    assert Bar.read(line) is None


def test_a_missing_bar_and_a_failed_part_are_short() -> None:
    outcome = figures.run_part("bench", "no_such_part", ["wanted"], [])
    assert outcome.missing == ["wanted"]
    assert outcome.exit_code != 0
    assert not outcome.ok
