"""Characters are counted wherever they are."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.prompt.characters import characters


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc", 3),
        (None, 0),
        ([1, True, "ab", ["c"], ("d",)], 4),
        ({"name": ["value", {"x": "y"}]}, 4 + 5 + 1 + 1),
        ({"url": "data:image/png;base64,AAAA"}, 3),
    ],
)
def test_characters(value: Any, expected: int) -> None:
    assert characters(value) == expected


def test_depth_does_not_matter() -> None:
    value: Any = "abc"
    for _ in range(50_000):
        value = [value]
    assert characters(value) == 3
