"""Responses requests as chat requests: each row of what Codex sends, and what must not reach the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.conversation import NO_IMAGE
from proxy.dialects.responses.last_tools import LastTools
from proxy.dialects.responses.translate import responses_request
from proxy.dialects.translation import Translation
from proxy.errors import InvalidRequest
from proxy.request.completion import Bounds, ChatPrompt
from proxy.request.images import ImagePolicy

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = {"type": "input_image", "image_url": PNG, "detail": "high"}
SEEING = Bounds(images=ImagePolicy(most=2, obstacle=None))


def translated(bounds: Bounds = Bounds(), last: LastTools | None = None, **fields: Any) -> Translation:  # noqa: B008
    body = {"model": "m", "input": "hi", "store": False, **fields}
    return responses_request(json.dumps(body).encode(), bounds, last or LastTools())


def prompt(bounds: Bounds = Bounds(), **fields: Any) -> ChatPrompt:  # noqa: B008 - frozen
    found = translated(bounds, **fields).request.prompt
    assert isinstance(found, ChatPrompt)
    return found


def messages(*items: dict[str, Any], bounds: Bounds = Bounds(), **fields: Any) -> list[dict[str, Any]]:  # noqa: B008
    return list(prompt(bounds, input=list(items), **fields).messages)


def message(role: str, *texts: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": text} for text in texts]
    return {"type": "message", "role": role, "content": content, **more}


def call(
    id: str = "c1", name: str = "exec_command", arguments: str = '{"cmd": "ls"}', **more: Any
) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": id, **more}


def output(value: Any, id: str = "c1", kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": id, "output": value}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False, **more}


def names(prompt: ChatPrompt) -> list[str]:
    return [tool["function"]["name"] for tool in prompt.tools or ()]


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        translated(**fields)
    return refusal.value


# Row: developer, instructions


def test_instructions_and_leading_developers_are_one_first_message() -> None:
    items = [
        message("developer", "Base."),
        message("developer", "Skills.", "Permissions."),
        message("user", "hi"),
    ]
    assert messages(*items, instructions="First.") == [
        {"role": "system", "content": "First.\n\nBase.\n\nSkills.\n\nPermissions."},
        {"role": "user", "content": "hi"},
    ]


def test_a_later_developer_message_is_a_reminder_where_it_stands() -> None:
    items = [message("developer", "Base."), message("user", "hi"), message("developer", "Now.")]
    assert messages(*items)[1:] == [
        {"role": "user", "content": "hi\n\n<system-reminder>\nNow.\n</system-reminder>"}
    ]


def test_environment_and_prompt_are_one_message_of_the_user() -> None:
    items = [message("user", "<environment_context/>"), message("user", "hi")]
    assert messages(*items) == [{"role": "user", "content": "<environment_context/>\n\nhi"}]


@pytest.mark.parametrize("given", ["hi", [{"role": "user", "content": "hi"}], [message("user", "hi")]])
def test_input_in_each_of_its_forms(given: Any) -> None:
    assert prompt(input=given).messages == ({"role": "user", "content": "hi"},)


# Rows: reasoning items, function_call


def test_the_items_of_one_answer_are_one_message() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "unused"}],
        "content": [{"type": "reasoning_text", "text": "so "}, {"type": "reasoning_text", "text": "what"}],
        "encrypted_content": None,
    }
    items = [
        message("user", "hi"),
        reasoning,
        message("assistant", "looking", id="msg_1", status="completed"),
        call("c1"),
        call("c2", arguments=""),
        output("one"),
        output("two", "c2"),
        {**reasoning, "content": None},
        call("c3"),
    ]
    _, first, one, two, second = messages(*items)
    assert first == {
        "role": "assistant",
        "content": "looking",
        "reasoning_content": "so what",
        "tool_calls": [
            {
                "type": "function",
                "id": "c1",
                "function": {"name": "exec_command", "arguments": '{"cmd": "ls"}'},
            },
            {"type": "function", "id": "c2", "function": {"name": "exec_command", "arguments": {}}},
        ],
    }
    assert (one, two) == (
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
    )
    assert second["reasoning_content"] == "unused", "a summary, where there is nothing else"


def test_items_ids_do_not_reach_the_prompt() -> None:
    plain = [message("user", "a"), message("assistant", "b"), call(), output("c")]
    marked = [{**item, "id": f"id_{number}", "status": "completed"} for number, item in enumerate(plain)]
    assert messages(*marked) == messages(*plain)


def test_past_arguments_that_do_not_parse_end_no_session() -> None:
    (_, answer) = messages(message("user", "a"), call(arguments='{"cmd": "l'))
    assert answer["tool_calls"][0]["function"]["arguments"] == {"input": '{"cmd": "l'}


# Row: outputs


def test_outputs_may_be_parts_with_images() -> None:
    parts = [{"type": "input_text", "text": "seen"}, IMAGE]
    blind = messages(message("user", "a"), call(), output(parts))
    assert blind[-1] == {"role": "tool", "tool_call_id": "c1", "content": f"seen\n\n{NO_IMAGE}"}
    *_, result, said = messages(message("user", "a"), call(), output(parts), bounds=SEEING)
    assert result["content"] == "seen"
    assert [part["type"] for part in said["content"]] == ["text", "image_url"]


def test_an_output_that_is_an_object_is_its_json() -> None:
    assert messages(output({"exit": 0}))[0]["content"] == '{"exit":0}'
    assert messages(output(None))[0]["content"] == ""


# Row: namespace tools

SPAWN = {"type": "namespace", "name": "agents", "tools": [function("spawn_agent"), function("wait")]}


def test_tools_of_a_namespace_are_functions() -> None:
    assert names(prompt(tools=[SPAWN, function("exec_command")])) == ["exec_command", "spawn_agent", "wait"]


def test_a_name_that_is_taken_gets_its_namespace_also_in_the_history() -> None:
    items = [message("user", "a"), call(name="wait", namespace="agents"), call("c2", name="wait")]
    found = prompt(input=items, tools=[SPAWN, function("wait")])
    assert names(found) == ["wait", "spawn_agent", "agents__wait"]
    called = [call["function"]["name"] for call in found.messages[1]["tool_calls"]]
    assert called == ["agents__wait", "wait"]


# Row: custom tools

PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Patches files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: line+"},
}


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    (tool,) = prompt(tools=[PATCH]).tools or ()
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["description"].startswith("Patches files.\n\n")
    assert "start: line+" in tool["function"]["description"]


def test_a_call_of_a_custom_tool_has_its_input_as_argument() -> None:
    made = {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin", "call_id": "c1"}
    _, answer, result = messages(
        message("user", "a"), made, output("done", kind="custom_tool_call_output"), tools=[PATCH]
    )
    function = answer["tool_calls"][0]["function"]
    assert function == {"name": "apply_patch", "arguments": {"input": "*** Begin"}}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "done"}


def test_a_shell_call_of_an_older_client_is_a_call() -> None:
    made = {"type": "local_shell_call", "call_id": "c1", "action": {"type": "exec", "command": ["ls"]}}
    (_, answer) = messages(message("user", "a"), made)
    assert answer["tool_calls"][0]["function"]["name"] == "local_shell"


# Row: hosted tools


def test_hosted_tools_and_their_items_are_left_out_and_named() -> None:
    found = translated(
        input=[message("user", "a"), {"type": "web_search_call", "id": "ws_1"}],
        tools=[{"type": "web_search"}, {"type": "tool_search"}, function("exec_command")],
    )
    assert isinstance(found.request.prompt, ChatPrompt)
    assert names(found.request.prompt) == ["exec_command"]
    assert found.left_out == ("tool web_search", "tool tool_search", "item web_search_call")


# Row: tool_choice, formats, limits


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (None, ["exec_command", "spawn_agent", "wait"]),
        ("auto", ["exec_command", "spawn_agent", "wait"]),
        ("required", ["exec_command", "spawn_agent", "wait"]),
        ("none", []),
        ({"type": "function", "name": "exec_command"}, ["exec_command"]),
        ({"type": "function", "name": "spawn_agent", "namespace": "agents"}, ["spawn_agent"]),
        ({"type": "web_search"}, ["exec_command", "spawn_agent", "wait"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, ["exec_command", "spawn_agent", "wait"]),
    ],
)
def test_tool_choice_is_that_of_chat(choice: Any, offered: list[str]) -> None:
    assert names(prompt(tools=[SPAWN, function("exec_command")], tool_choice=choice)) == offered


def test_limits_and_sampling_are_taken_over() -> None:
    request = translated(max_output_tokens=100, temperature=0.5, top_p=0.9, stream=True).request
    assert (request.max_tokens, request.stream, request.model) == (100, True, "m")
    assert request.sampling == {"temperature": 0.5, "top_p": 0.9}
    assert translated().request.max_tokens is None, "the default of the server applies"


def test_what_says_nothing_to_the_model_is_ignored() -> None:
    extra = {
        "client_metadata": {"x": "y"},
        "include": ["reasoning.encrypted_content"],
        "parallel_tool_calls": True,
        "prompt_cache_key": "k",
        "reasoning": {"summary": "auto", "effort": "high"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "truncation": "disabled",
        "metadata": None,
    }
    found = translated(**extra)
    assert found.request == translated().request
    assert found.left_out == ()


def test_a_format_is_left_out_and_named() -> None:
    schema = {"type": "json_schema", "name": "title", "schema": {}, "strict": True}
    assert translated(text={"format": schema}).left_out == ("text.format",)


def test_thinking_is_switched_off_where_the_client_says_so() -> None:
    assert prompt(reasoning={"effort": "none"}).template_kwargs == {"enable_thinking": False}


# Row: what needs a store


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("store", True),
        ("background", True),
    ],
)
def test_what_needs_a_store_is_refused_with_the_reason(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert error.param == name
    assert "stores no" in error.message


def test_a_reference_to_a_stored_item_is_refused() -> None:
    assert refused(input=[{"type": "item_reference", "id": "msg_1"}]).param == "input[0]"


# Compaction

COMPACTION = message("user", "You are performing a CONTEXT CHECKPOINT COMPACTION. Summarize.")


def test_a_compaction_gets_the_tools_of_its_conversation_back() -> None:
    tools = LastTools()
    turn = translated(last=tools, prompt_cache_key="k", input=[message("user", "a")])
    body = {"model": "m", "prompt_cache_key": "k", "input": [message("user", "a")]}
    responses_request(json.dumps({**body, "tools": [SPAWN]}).encode(), Bounds(), tools)
    compacting = {**body, "input": [message("user", "a"), COMPACTION], "tools": [], "tool_choice": "none"}
    found = responses_request(json.dumps(compacting).encode(), Bounds(), tools).request.prompt
    assert isinstance(found, ChatPrompt)
    assert names(found) == ["spawn_agent", "wait"]
    assert found.messages[-1]["content"].endswith("No tool can be called in this answer.\n</system-reminder>")
    assert turn.request.prompt != found


@pytest.mark.parametrize(("key", "client"), [("other", ""), ("k", "someone else")])
def test_tools_of_another_conversation_are_not_taken(key: str, client: str) -> None:
    tools = LastTools()
    body = {"model": "m", "prompt_cache_key": "k", "input": [message("user", "a")], "tools": [SPAWN]}
    responses_request(json.dumps(body).encode(), Bounds(), tools)
    compacting = {"model": "m", "prompt_cache_key": key, "input": [COMPACTION], "tools": []}
    found = responses_request(json.dumps(compacting).encode(), Bounds(), tools, client).request.prompt
    assert isinstance(found, ChatPrompt)
    assert found.tools is None


# Never stricter than needed, and faults that name the field


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"type": "input_file", "file_id": "f"}, "[input_file: not shown]"),
        ({"type": "refusal", "refusal": "no"}, "no"),
        ({"type": "input_image", "file_id": "f"}, NO_IMAGE),
        ({"type": 7}, ""),
    ],
)
def test_parts_that_cannot_be_shown_are_short_texts(part: Any, shown: str) -> None:
    assert messages({"role": "user", "content": [part]})[0]["content"] == shown


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [message("user", "a"), {"role": "user", "content": [IMAGE]}]}, "input[0]"),
        ({"tools": [{"name": "x"}]}, "tools[0].type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"temperature": 1000}, "temperature"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_fault_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert f"`{param}`" in error.message


def test_instructions_without_input_are_a_request() -> None:
    assert prompt(input=[], instructions="Say hi.").messages == ({"role": "system", "content": "Say hi."},)
