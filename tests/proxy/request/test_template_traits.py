"""Tests of what an operator is told of a chat template."""

from __future__ import annotations

from typing import Any

from proxy.request.template_traits import known, warnings


def test_what_an_operator_is_told() -> None:
    def told(parses_calls: bool = True, **traits: Any) -> str:
        return " ".join(warnings(known(traits), parses_calls=parses_calls))

    assert told() == ""
    assert "UndefinedError: x" in told(renders=False, error="UndefinedError: x")
    assert "does not show tools" in told(tools=False)
    assert "no parser" in told(parses_calls=False)
    assert "as text" in told(calls=False)
    assert "midnight" in told(dated=True)
