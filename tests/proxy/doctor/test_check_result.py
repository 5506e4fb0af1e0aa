"""A line of `doctor`, for people and programs."""

from __future__ import annotations

from proxy.doctor.check_result import conclusion, document, failed, ok, warning, works

GOOD, DOUBTFUL, BAD = (
    ok("a", "seen"),
    warning("b", "half seen", "Look."),
    failed("c", "not seen", "Repair it."),
)


def test_a_line_has_advice_below_it_where_there_is_some() -> None:
    assert GOOD.text() == "ok       a                 seen"
    assert BAD.text().splitlines() == [
        "failed   c                 not seen",
        "                           Repair it.",
    ]


def test_only_a_failure_counts_against_the_machine() -> None:
    assert works([GOOD, DOUBTFUL])
    assert not works([GOOD, BAD])


def test_the_last_line_counts() -> None:
    assert conclusion([GOOD]) == "Everything works here."
    assert conclusion([GOOD, GOOD, DOUBTFUL, BAD]) == "2 ok, 1 warning, 1 failed"
    assert conclusion([DOUBTFUL, DOUBTFUL]) == "2 warnings"


def test_programs_get_the_same() -> None:
    assert document([DOUBTFUL]) == {
        "works": True,
        "checks": [{"check": "b", "verdict": "warning", "found": "half seen", "advice": "Look."}],
    }
