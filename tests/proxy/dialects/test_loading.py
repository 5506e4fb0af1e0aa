"""Typed forms of bodies, and how faults name their field."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.loading import Form, read_form
from proxy.errors import InvalidRequest


class Inner(Form):
    number: int


class Outer(Form):
    name: str
    inner: tuple[Inner, ...] = ()


def param(fields: dict[str, Any]) -> str | None:
    with pytest.raises(InvalidRequest) as refusal:
        read_form(Outer, fields)
    return refusal.value.param


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a", "inner": 7}, "inner"),
        ({"name": "a", "inner": [{"number": 1}, {}]}, "inner[1].number"),
        ({"name": "a", "inner": [None]}, "inner[0]"),
    ],
)
def test_a_fault_names_its_field(fields: dict[str, Any], where: str) -> None:
    assert param(fields) == where


def test_unknown_fields_are_ignored() -> None:
    assert read_form(Outer, {"name": "a", "more": 1}) == Outer(name="a")
