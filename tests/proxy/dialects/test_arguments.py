"""Arguments of calls: what leaves is JSON text where it can be, what comes back never fails."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.arguments import arguments_object, past_arguments, sent_arguments

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('"text"', '"text"'),
        ("{broken", "{broken"),
        ("", ""),
        (None, "{}"),
        ({"a": 1}, '{"a":1}'),
        ([1], '{"input":[1]}'),
    ],
)
def test_sent_arguments(given: Any, sent: str) -> None:
    assert sent_arguments(given) == sent


@given(st.one_of(JSON, st.text(max_size=20), JSON.map(lambda value: orjson.dumps(value).decode())))
def test_past_arguments_are_an_object_or_the_text_of_one(value: Any) -> None:
    kept = past_arguments(value)
    assert type(orjson.loads(kept) if type(kept) is str else kept) is dict


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ("", {}), ("null", {"input": "null"}), ("{broken", {"input": "{broken"})],
)
def test_arguments_as_an_object(text: str, value: dict[str, Any]) -> None:
    assert arguments_object(text) == value
