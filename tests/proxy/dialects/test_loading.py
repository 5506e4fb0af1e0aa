"""Bodies: what is mended in them, what is refused, and how faults name their field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.loading import Form, load, read_form
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


def mended(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=()), max_size=20), max_size=3))
def test_any_text_is_read_and_only_nul_and_lone_surrogates_change(fields: dict[str, str]) -> None:
    assert load(json.dumps(fields).encode()) == {mended(key): mended(text) for key, text in fields.items()}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'{"a": "\u0000"}', "\ufffd"),
        (rb'{"a": "\\u0000"}', "\\u0000"),
        (rb'{"a": "\\\u0000"}', "\\\ufffd"),
        (rb'{"a": "\ud83d cut"}', "\ufffd cut"),
        (rb'{"a": "\ud83d\ude00"}', "\U0001f600"),
        (b'\xef\xbb\xbf{"a": "x"}', "x"),
    ],
)
def test_what_is_mended(body: bytes, value: str) -> None:
    assert load(body) == {"a": value}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"a": NaN}', b"\xff", b'{"a": ' * 70 + b"1" + b"}" * 70]
)
def test_what_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        load(body)


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
