"""What a request demands of its answer's form: how it is read, told and examined."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.errors import InvalidRequest
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest
from proxy.request.parse import parse_chat, parse_text
from proxy.request.structured import WantedOutput, examine, with_correction, with_told

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "g"}}
USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be brief."}


def _parsed(mode: str = "retry", **fields: Any) -> CompletionRequest:
    body = orjson.dumps({"messages": [USER], **fields})
    return parse_chat(body, Bounds(structured_output=mode))


def _system(request: CompletionRequest) -> str:
    assert isinstance(request.prompt, ChatPrompt)
    first = request.prompt.messages[0]
    return str(first["content"]) if first["role"] == "system" else ""


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        (FORMAT, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, SCHEMA),
    ],
)
def test_forms_of_json(wanted: dict[str, Any], schema: dict[str, Any]) -> None:
    request = _parsed(response_format=wanted)
    assert request.wanted == WantedOutput("response_format", schema, {})
    assert "must be JSON alone" in _system(request)
    assert request.dropped == ()


@pytest.mark.parametrize(
    ("choice", "names", "told"),
    [
        ("required", ["f", "g"], "call one of the functions."),
        ("any", ["f", "g"], "call one of the functions."),
        ({"type": "function", "function": {"name": "f"}}, ["f"], "call the function f."),
    ],
)
def test_forced_calls(choice: Any, names: list[str], told: str) -> None:
    request = _parsed(tools=[TOOL, OTHER], tool_choice=choice, response_format=FORMAT)
    assert request.wanted is not None
    assert (request.wanted.param, list(request.wanted.functions)) == ("tool_choice", names)
    assert _system(request).endswith(told)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None, "tools": [TOOL], "tool_choice": "auto"},
        {"tool_choice": "required"},  # of nothing
    ],
)
def test_nothing_is_demanded(fields: dict[str, Any]) -> None:
    for mode in ("retry", "ignore", "refuse"):
        request = _parsed(mode, **fields)
        assert (request.wanted, request.dropped, _system(request)) == (None, (), "")


def test_ignored_as_the_setting_says() -> None:
    request = _parsed("ignore", response_format=FORMAT, tools=[TOOL], tool_choice="required")
    assert (request.wanted, _system(request)) == (None, "")
    assert request.dropped == ("response_format", "tool_choice")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_refused_as_the_setting_says(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        _parsed("refuse", **fields)
    assert refusal.value.param == param


@pytest.mark.parametrize("wanted", ["json", {"type": "grammar"}, {"type": 7}, []])
def test_what_is_unknown_is_ignored_and_named(wanted: Any) -> None:
    request = _parsed(response_format=wanted)
    assert (request.wanted, request.dropped) == (None, ("response_format",))


def test_a_text_completion_is_told_nothing() -> None:
    body = orjson.dumps({"prompt": "hi", "response_format": FORMAT})
    assert parse_text(body, Bounds()).dropped == ("response_format",)
    with pytest.raises(InvalidRequest):
        parse_text(body, Bounds(structured_output="refuse"))


def test_it_is_told_at_the_end_of_the_system_text() -> None:
    assert with_told([SYSTEM, USER], "JSON!") == ({**SYSTEM, "content": "Be brief.\n\nJSON!"}, USER)
    assert with_told([USER], "JSON!") == ({"role": "system", "content": "JSON!"}, USER)
    parts = {"role": "system", "content": [{"type": "text", "text": "a"}]}
    told = with_told([SYSTEM, parts, USER], "JSON!")
    assert told[1]["content"][-1] == {"type": "text", "text": "\n\nJSON!"}


JSON = WantedOutput("response_format", SCHEMA, {})
CALL = WantedOutput("tool_choice", None, {"f": SCHEMA})


def _call(name: str = "f", arguments: str = '{"city": "Paris"}') -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("content", "alone"),
    [
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        ('\n {"city": "Paris"} ', '{"city": "Paris"}'),
        ('```json\n{"city": "Paris"}\n```', '{"city": "Paris"}'),
        ('```\n{"city": "Paris"}```\n', '{"city": "Paris"}'),
    ],
)
def test_json_alone(content: str, alone: str) -> None:
    found = examine(JSON, {"content": content})
    assert (found.problem, found.content) == (None, alone)
    assert [check.value for check in found.checks] == [{"city": "Paris"}]


@pytest.mark.parametrize("content", [None, "", "Paris", 'It is {"city": "Paris"}', '{"city": NaN}'])
def test_no_json(content: str | None) -> None:
    problem = examine(JSON, {"content": content}).problem
    assert problem
    assert problem.startswith("it is not JSON")


def test_a_call_in_place_of_json_is_a_step_on_the_way() -> None:
    assert examine(JSON, _call()).problem is None
    assert examine(JSON, _call()).checks == ()


def test_calls() -> None:
    assert [check.schema for check in examine(CALL, _call()).checks] == [SCHEMA]
    assert examine(CALL, {"content": "Paris"}).problem == "it calls no function."
    assert examine(CALL, _call("g")).problem == "g is none of the functions that may be called."
    for arguments in ("[1]", "{", '"x"'):
        assert examine(CALL, _call(arguments=arguments)).problem == "the arguments of f are no JSON object."


def test_what_was_wrong_is_told() -> None:
    *before, answer, correction = with_correction(
        [SYSTEM, USER], {"content": "Paris"}, JSON, "it is no JSON."
    )
    assert before == [SYSTEM, USER]
    assert answer == {"role": "assistant", "content": "Paris"}
    assert correction["content"] == (
        "This answer cannot be used: it is no JSON. Answer again, with the corrected JSON alone."
    )
    *_, answer, correction = with_correction([USER], _call("g"), CALL, "wrong.")
    assert answer["content"] == '[{"name": "g", "arguments": "{\\"city\\": \\"Paris\\"}"}]'
    assert correction["content"].endswith("Answer again, with a function call.")
