"""Tests of mended calls, tools and `tool_choice`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.request.mend import mend
from proxy.request.mend_tools import UNPARSED
from proxy.request.mends import Mends
from tests.proxy.request.test_mend import BLIND, call, history, mended


def arguments_of(message: dict[str, Any]) -> Any:
    return message["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize("text", ["{", '{"city": "Par', '{"a": "line\nline"}', "city=Paris"])
def test_arguments_that_are_no_json_keep_their_text(text: str) -> None:
    messages, counts = history(call(text))
    assert arguments_of(messages[0]) == {UNPARSED: text}
    assert counts == {"arguments_kept_as_text": 1}


@pytest.mark.parametrize("text", ["null", "[1]", "3", '"word"', "", "  ", '{"a": 1}'])
def test_valid_arguments_are_left_to_the_template(text: str) -> None:
    messages, counts = history(call(text))
    assert arguments_of(messages[0]) == text
    assert counts == {}


def test_a_nul_within_the_text_of_arguments() -> None:
    messages, counts = history(call('{"text": "a\\u0000b", "n": 123456789012345678901234567890}'))
    assert arguments_of(messages[0]) == {"text": "a\ufffdb", "n": 123456789012345678901234567890}
    assert counts == {"nul_replaced": 1}


def test_arguments_in_json_twice() -> None:
    messages, counts = history(call(json.dumps(json.dumps({"a": 1}))))
    assert arguments_of(messages[0]) == {"a": 1}
    assert counts == {"arguments_unquoted": 1}


def test_arguments_with_a_surrogate_keep_what_they_say() -> None:
    messages, counts = history(call('{"a": "cut \\ud83d", "b": NaN}'))
    assert arguments_of(messages[0]) == {"a": "cut \ufffd", "b": None}
    assert counts == {"arguments_kept_as_text": 1}


def test_calls_in_other_protocols_forms() -> None:
    custom = {"id": "1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    flat = {"id": "2", "type": "function", "name": "g", "arguments": "{}"}
    messages, counts = history({"role": "assistant", "content": "", "tool_calls": [custom, flat]})
    assert messages[0]["tool_calls"] == [
        {"type": "function", "function": {"name": "patch", "arguments": {"input": "*** Begin"}}, "id": "1"},
        {"type": "function", "function": {"name": "g", "arguments": "{}"}, "id": "2"},
    ]
    assert counts == {"call_converted": 2}


def test_the_old_function_call() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    messages, counts = history(old, {"role": "function", "name": "f", "content": "3"})
    assert messages[0]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert messages[1] == {"role": "tool", "name": "f", "content": "3"}
    assert counts == {"call_converted": 1, "role_renamed": 1}


@pytest.mark.parametrize("broken", [None, "f", {}, {"function": {}}, {"function": {"name": 3}}])
def test_a_call_without_a_name_is_left_out(broken: Any) -> None:
    messages, counts = history({"role": "assistant", "content": "hm", "tool_calls": [broken]})
    assert messages == [{"role": "assistant", "content": "hm"}]
    assert counts == {"call_omitted": 1}


def test_ids_that_are_numbers() -> None:
    messages, counts = history(call("{}", id=7), {"role": "tool", "tool_call_id": 7, "content": "x"})
    assert (messages[0]["tool_calls"][0]["id"], messages[1]["tool_call_id"]) == ("7", "7")
    assert counts == {"name_mended": 2}


def test_tools_in_other_protocols_forms() -> None:
    schema = {"type": "object"}
    fields, counts = mended(
        {
            "messages": [],
            "tools": [
                {"type": "function", "name": "f", "parameters": schema},
                {"name": "g", "description": "d", "input_schema": schema},
                {"type": "custom", "name": "apply_patch", "format": {}},
                {"type": "web_search"},
            ],
        }
    )
    assert fields["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": schema}},
        {"type": "function", "function": {"name": "g", "description": "d", "parameters": schema}},
    ]
    assert counts == {"tool_converted": 2, "tool_omitted": 2}


def test_tools_that_were_left_out_are_named() -> None:
    mends = Mends()
    mend({"tools": [{"type": "web_search"}, {"type": "custom", "name": "p"}]}, BLIND, mends)
    assert mends.omitted_tools == ["web_search", "p"]


@pytest.mark.parametrize(
    ("choice", "converted"),
    [
        ("any", "required"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_in_other_protocols_forms(choice: Any, converted: Any) -> None:
    fields, counts = mended({"messages": [], "tool_choice": choice})
    assert (fields["tool_choice"], counts) == (converted, {"tool_choice_converted": 1})
