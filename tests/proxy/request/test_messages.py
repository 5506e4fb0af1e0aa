from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.request.images import ImagePolicy, Images
from proxy.request.messages import parse_messages, parse_tools

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def call(arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}, **fields}


def assistant(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (USER, USER),
        ({"role": "developer", "content": "rules"}, {"role": "system", "content": "rules"}),
        ({"role": "user", "content": None}, {"role": "user", "content": ""}),
        ({"role": "user"}, {"role": "user", "content": ""}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "user", "content": "ab"},
        ),
        ({"role": "user", "content": ["a", {"text": "b"}]}, {"role": "user", "content": "ab"}),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": "no"},
        ),
        ({**USER, "name": "ann", "cache_control": {}, "tool_calls": 5}, {**USER, "name": "ann"}),
        ({**USER, "name": None}, USER),
        (
            {"role": "assistant", "content": "x", "reasoning": "r", "reasoning_content": "c", "audio": None},
            {"role": "assistant", "content": "x", "reasoning": "r", "reasoning_content": "c"},
        ),
        ({"role": "assistant", "content": "x", "tool_calls": []}, {"role": "assistant", "content": "x"}),
        (assistant(call()), {"role": "assistant", "content": "", "tool_calls": [call()]}),
        (assistant(call(index=0)), {"role": "assistant", "content": "", "tool_calls": [call()]}),
        (assistant(call("")), {"role": "assistant", "content": "", "tool_calls": [call({})]}),
        (assistant(call(None)), {"role": "assistant", "content": "", "tool_calls": [call({})]}),
        (
            assistant(call({"a": [1]})),
            {"role": "assistant", "content": "", "tool_calls": [call({"a": [1]})]},
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "ok", "is_error": False},
            {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        ),
    ],
)
def test_what_is_kept_of_a_message(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse_messages([message]) == (expected,)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ({}, "messages"),
        ([], "messages"),
        ("hi", "messages"),
        ([USER] * 20_001, "messages"),
        (["hi"], "messages[0]"),
        ([USER, {"content": "x"}], "messages[1].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "function", "name": "f", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {"text": "x"}}], "messages[0].content"),
        ([USER, {"role": "user", "content": [5]}], "messages[1].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "x"},
                        {"type": "image_url", "image_url": {"url": "http://x/"}},
                    ],
                }
            ],
            "messages[0].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": ["text"], "text": "x"}]}], "messages[0].content[0].type"),
        ([{**USER, "name": 5}], "messages[0].name"),
        ([{"role": "assistant", "content": "", "reasoning": {}}], "messages[0].reasoning"),
        ([{"role": "assistant", "function_call": {"name": "f"}}], "messages[0].function_call"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
        ([assistant(5)], "messages[0].tool_calls[0]"),
        ([assistant({"id": "x"})], "messages[0].tool_calls[0].function"),
        ([assistant(call(type="custom"))], "messages[0].tool_calls[0].type"),
        ([assistant({"function": {"arguments": "{}"}})], "messages[0].tool_calls[0].function.name"),
        ([assistant(call(id=5))], "messages[0].tool_calls[0].id"),
        *(
            ([assistant(call(), call(arguments))], "messages[0].tool_calls[1].function.arguments")
            for arguments in (
                "{",
                "NaN",
                '{"a": "\\ud800"}',
                '{"a":' * 201 + "1" + "}" * 201,
                "[" * 5000,
            )
        ),
        ([{"role": "tool", "tool_call_id": 5}], "messages[0].tool_call_id"),
    ],
)
def test_what_is_refused(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_messages(messages)
    assert refusal.value.param == param


def test_arguments_pass_as_the_text_they_came_in() -> None:
    text = '{"n": 123456789012345678901234567890, "b": 1.10}'
    (message,) = parse_messages([assistant(call(text))])
    assert message["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize("arguments", ["[]", "null", 5, []])
def test_arguments_that_are_no_object_are_left_to_the_template(arguments: Any) -> None:
    (message,) = parse_messages([assistant(call(arguments))])
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_refusals_do_not_quote_the_conversation() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_messages([{"role": "secretrole", "content": "x"}])
    assert "secretrole" not in str(refusal.value.body())


@pytest.mark.parametrize(
    ("tools", "choice", "expected"),
    [
        (None, None, None),
        ([], None, None),
        (None, "auto", None),
        (None, "none", None),
        ([TOOL], None, (TOOL,)),
        ([TOOL], "required", (TOOL,)),
        ([TOOL], "none", None),
        ([{"function": {"name": "f", "strict": None}}], "auto", (TOOL,)),
        (
            [TOOL, {"type": "function", "function": {"name": "g"}}],
            {"type": "function", "function": {"name": "f"}},
            (TOOL,),
        ),
    ],
)
def test_tools(tools: Any, choice: Any, expected: Any) -> None:
    assert parse_tools(tools, choice) == expected


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ({}, None, "tools"),
        ([TOOL] * 2001, None, "tools"),
        ([5], None, "tools[0]"),
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([TOOL, {"type": "function", "function": {}}], None, "tools[1].function.name"),
        ([{"type": "function", "function": {"name": ""}}], None, "tools[0].function.name"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": []}}],
            None,
            "tools[0].function.parameters",
        ),
        (
            [{"type": "function", "function": {"name": "f", "description": 5}}],
            None,
            "tools[0].function.description",
        ),
        ([TOOL], "maybe", "tool_choice"),
        ([TOOL], 5, "tool_choice"),
        ([TOOL], {"type": "function"}, "tool_choice"),
        ([TOOL], {"type": "function", "function": {"name": "g"}}, "tool_choice"),
        (None, {"type": "function", "function": {"name": "g"}}, "tool_choice"),
    ],
)
def test_refused_tools(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_tools(tools, choice)
    assert refusal.value.param == param


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}


def test_content_with_images_stays_a_list_of_parts_and_other_content_is_one_text() -> None:
    images = Images(ImagePolicy(most=2, obstacle=None))
    seen = {"role": "user", "content": ["a", {"type": "input_text", "text": "b"}, PICTURE, "c"]}
    text = [{"type": "text", "text": text} for text in "abc"]
    assert parse_messages([USER, seen, USER], images) == (
        USER,
        {"role": "user", "content": [*text[:2], PICTURE, text[2]]},
        USER,
    )
    assert images.count == 1


def test_images_are_counted_over_all_messages_and_named_by_their_place() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_messages(
            [{"role": "user", "content": [PICTURE]}] * 3, Images(ImagePolicy(most=2, obstacle=None))
        )
    assert refusal.value.param == "messages[2].content[0]"
    with pytest.raises(InvalidRequest) as refusal:
        parse_messages([USER, {"role": "user", "content": ["a", PICTURE]}])
    assert refusal.value.param == "messages[1].content[1].type"
