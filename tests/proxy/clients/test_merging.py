"""Values over existing data."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.clients.merging import overlaid, same_entry, with_defaults


@pytest.mark.parametrize(
    ("existing", "values", "expected"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ([{"id": "x", "k": 1}], [{"id": "y"}], [{"id": "x", "k": 1}, {"id": "y"}]),
        ([{"id": "x", "k": 1, "l": 2}], [{"id": "x", "k": 3}], [{"id": "x", "k": 3, "l": 2}]),
        ({"a": ["x"]}, {"a": ["y"]}, {"a": ["y"]}),
    ],
)
def test_values_are_laid_over(existing: Any, values: Any, expected: Any) -> None:
    assert overlaid(existing, values) == expected
    assert overlaid(expected, values) == expected


def test_entries_are_the_same_if_all_their_names_are() -> None:
    assert same_entry({"id": "tiny", "name": "mlx", "url": 1}, {"id": "tiny", "name": "mlx", "url": 2})
    assert not same_entry({"id": "tiny", "name": "cloud"}, {"id": "tiny", "name": "mlx"})
    assert not same_entry({"url": 1}, {"url": 1})
    assert not same_entry("tiny", {"id": "tiny"})


def test_defaults_are_for_what_is_lacking() -> None:
    assert with_defaults(None, {"a": 1}, {"b": 2}) == {"b": 2, "a": 1}
    assert with_defaults({"b": 3}, {"a": 1}, {"b": 2}) == {"a": 1}
