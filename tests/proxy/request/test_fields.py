from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.request import fields


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (4.0, 4), (9, 9)])
def test_an_integer_may_be_written_as_a_whole_float(value: Any, expected: int) -> None:
    result = fields.integer(value, "n", 1, 9)
    assert (result, type(result)) == (expected, int)


@pytest.mark.parametrize("value", [True, "3", 1.5, None, [], 0, 10, 1e300])
def test_anything_else_is_no_integer_within_bounds(value: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        fields.integer(value, "n", 1, 9)
    assert refusal.value.param == "n"


def test_a_number_is_always_a_float() -> None:
    assert type(fields.number(1, "x", 0, 1)) is float


@pytest.mark.parametrize("value", [True, "0.5", None, 1.01, -0.01])
def test_anything_else_is_no_number_within_bounds(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        fields.number(value, "x", 0, 1)


@pytest.mark.parametrize("value", [0, 1, "true", None, []])
def test_only_true_and_false_are_booleans(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        fields.boolean(value, "stream")


def test_refusals_have_no_number_that_agents_take_for_a_status() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        fields.refuse("messages[1503].content", "must be at most 5000 characters long")
    assert "messages[N].content" in refusal.value.message
    assert "at most N characters" in refusal.value.message
    assert refusal.value.param == "messages[1503].content"


def nested(levels: int) -> Any:
    value: Any = "leaf"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize("levels", [0, 1, 63, 64])
def test_depth_within_the_limit(levels: int) -> None:
    assert not fields.too_deep(nested(levels), 64)


@pytest.mark.parametrize("levels", [65, 200, 100_000])
def test_depth_beyond_the_limit_needs_no_stack(levels: int) -> None:
    assert fields.too_deep(nested(levels), 64)
