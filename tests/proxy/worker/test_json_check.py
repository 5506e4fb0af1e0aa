"""JSON values against schemas of clients, which may be anything."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.worker import json_check
from proxy.worker.json_check import BadSchema, json_problem

PLACE: dict[str, Any] = {
    "$defs": {"city": {"type": "string", "minLength": 1}},
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"city": "Paris"}, None),
        ({"city": 7}, "$.city: 7 is not of type 'string'"),
        ({}, "$: 'city' is a required property"),
        ([], "$: [] is not of type 'object'"),
    ],
)
def test_values(value: Any, problem: str | None) -> None:
    assert json_problem(PLACE, value) == problem


@pytest.mark.parametrize(
    "dialect", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_dialects(dialect: str) -> None:
    assert json_problem({"$schema": dialect, "type": "string"}, "x") is None


def test_a_long_problem_is_cut() -> None:
    problem = json_problem({"type": "object"}, "x" * 10_000)
    assert problem
    assert len(problem) <= 300


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": 7},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"pattern": "("},
    ],
)
def test_schemas_that_cannot_be_applied(schema: dict[str, Any]) -> None:
    with pytest.raises(BadSchema):
        json_problem(schema, "x")


def test_a_check_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large value stands in for patterns that would never end."""
    monkeypatch.setattr(json_check, "_CHECKING_S", 0.05)
    with pytest.raises(BadSchema, match="too long"):
        json_problem({"items": {"type": "integer"}}, list(range(1_000_000)))
