"""JSON as people write it keeps all that a merge does not set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients import json_text
from proxy.clients.merging import NotMergeable, overlaid

ZED = """// Zed settings
//
{
  "ui_font_size": 16, // as on the other machine
  /* not "agent": {} */
  "theme": {
    "mode": "system",
    "dark": "One // Dark",
  },
  "languages": {} // none
}
"""


def test_comments_and_layout_stay() -> None:
    values = {"theme": {"light": "Ayu", "dark": "Ayu Dark"}, "agent": {"model": {"name": "tiny"}}}
    merged = json_text.merge(ZED, values)
    assert merged == ZED.replace('"One // Dark",', '"Ayu Dark",\n    "light": "Ayu",').replace(
        '"languages": {} // none\n',
        '"languages": {}, // none\n  "agent": {\n    "model": {"name": "tiny"}\n  }\n',
    )
    assert json_text.merge(merged, values) == merged


def test_entries_of_lists_are_replaced_or_added() -> None:
    text = '{\n\t"models": [\n\t\t{"id": "a", "n": 1}, // first\n\t\t{"id": "b", "n": 2}\n\t]\n}'
    merged = json_text.merge(text, {"models": [{"id": "a", "n": 3}, {"id": "c", "n": 4}]})
    assert merged == (
        '{\n\t"models": [\n\t\t{"id": "a", "n": 3}, // first\n\t\t{"id": "b", "n": 2},\n'
        '\t\t{"id": "c", "n": 4}\n\t]\n}'
    )


@pytest.mark.parametrize("text", ["", "\n", "// only a comment\n"])
def test_a_file_without_anything(text: str) -> None:
    assert json_text.merge(text, {"a": 1}) == text + '{"a": 1}\n'


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "}",
        '{"a" 1}',
        "{'a': 1}",
        '{"a": 1} {}',
        '{"a": 1}}',
        "a: 1",
        "[" * 100_000,
        '{"a": /}',
        "{1: 2}",
    ],
)
def test_what_is_not_understood_is_left_alone(text: str) -> None:
    with pytest.raises(NotMergeable):
        json_text.merge(text, {"a": 2})


def test_a_switch_is_no_number() -> None:
    assert json_text.merge('{"a": 1}', {"a": True}) == '{"a": true}'


def test_of_two_equal_keys_the_last_counts() -> None:
    assert json_text.merge('{"a": 1, "a": 2}', {"a": 3}) == '{"a": 1, "a": 3}'


LEAF = st.one_of(st.integers(-9, 9), st.booleans(), st.none(), st.text('ab/*"\\\n é', max_size=4))
ENTRIES = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("xyz"), "v": LEAF}),
    max_size=3,
    unique_by=lambda entry: entry["id"],
)
DATA = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), LEAF, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), st.one_of(inner, LEAF, ENTRIES), max_size=4),
    max_leaves=8,
)


@given(DATA, DATA, st.sampled_from([None, 0, 2, "\t"]))
def test_any_document_merges_to_what_it_should(before: Any, values: Any, indent: Any) -> None:
    text = json.dumps(before, indent=indent)
    merged = json_text.merge(text, values)
    assert json.loads(merged) == overlaid(before, values)
    assert json_text.merge(merged, values) == merged
    assert json.loads(json_text.render(values)) == values
