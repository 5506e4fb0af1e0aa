"""Messages requests as chat requests: each row of what Claude Code sends, and what no prompt shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.conversation import NO_IMAGE
from proxy.dialects.messages.translate import count_request, messages_request
from proxy.dialects.translation import Translation
from proxy.errors import InvalidRequest
from proxy.request.allowlist import Allowlist, template_arguments
from proxy.request.completion import Bounds, ChatPrompt
from proxy.request.images import ImagePolicy

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SEEING = Bounds(images=ImagePolicy(most=2, obstacle=None))
BILLING = "x-anthropic-billing-header: cc_version=2.1.332.b24; cc_entrypoint=sdk-cli;"


def translated(bounds: Bounds = Bounds(), **fields: Any) -> Translation:  # noqa: B008 - frozen
    body = {"model": "m", "max_tokens": 100, "messages": [user("hi")], **fields}
    return messages_request(json.dumps(body).encode(), bounds)


def prompt(bounds: Bounds = Bounds(), **fields: Any) -> ChatPrompt:  # noqa: B008 - frozen
    found = translated(bounds, **fields).request.prompt
    assert isinstance(found, ChatPrompt)
    return found


def messages(*entries: dict[str, Any], bounds: Bounds = Bounds(), **fields: Any) -> list[dict[str, Any]]:  # noqa: B008
    return list(prompt(bounds, messages=list(entries), **fields).messages)


def user(*content: Any) -> dict[str, Any]:
    plain = len(content) == 1 and type(content[0]) is not dict
    return {"role": "user", "content": content[0] if plain else list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(id: str = "t1", name: str = "Bash", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def result(content: Any, id: str = "t1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        translated(**fields)
    return refusal.value


# Row: system blocks


def test_system_blocks_become_one_first_message_without_the_billing_header() -> None:
    system = [text(BILLING), text("You are Claude Code."), text("Rules.")]
    assert messages(user("hi"), system=system) == [
        {"role": "system", "content": "You are Claude Code.\n\nRules."},
        {"role": "user", "content": "hi"},
    ]


def test_a_header_in_front_of_other_text_is_cut_off_alone() -> None:
    assert messages(user("hi"), system=f"{BILLING}\n\nRules.")[0]["content"] == "Rules."
    assert messages(user("hi"), system=f"See\n{BILLING}")[0]["content"] == f"See\n{BILLING}"


def test_a_system_of_headers_alone_is_none() -> None:
    assert messages(user("hi"), system=[text(BILLING)]) == [{"role": "user", "content": "hi"}]


# Row: messages with the role system


def test_a_later_system_message_is_a_reminder_within_the_users_message() -> None:
    entries = [
        user("hi"),
        {"role": "system", "content": "Today is Monday."},
        {"role": "assistant", "content": "a"},
    ]
    assert messages(*entries, system="Rules.")[1:] == [
        {"role": "user", "content": "hi\n\n<system-reminder>\nToday is Monday.\n</system-reminder>"},
        {"role": "assistant", "content": "a"},
    ]


def test_a_system_message_at_the_end_or_before_a_user_makes_no_second_message_of_the_user() -> None:
    say, remind = {"role": "assistant", "content": "a"}, {"role": "system", "content": "S"}
    reminded = "<system-reminder>\nS\n</system-reminder>"
    assert messages(user("hi"), say, remind)[-1] == {"role": "user", "content": reminded}
    assert messages(user("hi"), say, remind, user("b"))[-1]["content"] == f"{reminded}\n\nb"


def test_a_first_system_message_joins_the_system() -> None:
    entries = [{"role": "system", "content": [text("B")]}, user("hi")]
    assert messages(*entries, system="A")[0] == {"role": "system", "content": "A\n\nB"}


# Row: user with tool_result and text


def test_results_come_in_order_and_then_what_the_user_says() -> None:
    entries = [
        user("go"),
        {"role": "assistant", "content": [use("t1"), use("t2")]},
        user(text("first"), result("one"), text("between"), result([text("two"), text("more")], "t2")),
    ]
    assert messages(*entries)[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": "two\n\nmore"},
        {"role": "user", "content": "first\n\nbetween"},
    ]


def test_results_alone_are_no_message_of_the_user() -> None:
    entries = [user("go"), {"role": "assistant", "content": [use()]}, user(result("one"), result(None, "t2"))]
    assert [message["role"] for message in messages(*entries)] == ["user", "assistant", "tool", "tool"]


def test_consecutive_messages_of_one_role_are_one() -> None:
    entries = [
        user("a"),
        user("b"),
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    assert messages(*entries) == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "cd"},
    ]


# Row: tool_result is_error


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("ls: no such file", "Error: ls: no such file"),
        ([text("no such file"), text("more")], "Error: no such file\n\nmore"),
        ("", "Error: "),
        (None, "Error: "),
        ("Error: it failed", "Error: it failed"),
        ("<tool_use_error>no such tool</tool_use_error>", "<tool_use_error>no such tool</tool_use_error>"),
    ],
)
def test_an_error_is_told_in_the_text(content: Any, shown: str) -> None:
    assert messages(user(result(content, is_error=True)))[0]["content"] == shown
    assert not messages(user(result("fine", is_error=False)))[0]["content"].startswith("Error")


# Row: images in tool results


def test_an_image_in_a_result_is_a_placeholder_for_a_model_without_eyes() -> None:
    assert messages(user(result([text("a"), IMAGE])))[0]["content"] == f"a\n\n{NO_IMAGE}"


def test_an_image_in_a_result_follows_all_results_in_a_users_message() -> None:
    entries = [user("go"), {"role": "assistant", "content": [use("t1"), use("t2")]}]
    entries.append(user(result([text("a"), IMAGE]), result("b", "t2"), text("look")))
    *_, first, second, said = messages(*entries, bounds=SEEING)
    assert [first["role"], second["role"], said["role"]] == ["tool", "tool", "user"]
    assert first["content"] == "a"
    assert [part["type"] for part in said["content"]] == ["text", "image_url", "text"]
    assert said["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"


def test_images_of_results_alone_get_a_message_before_the_assistants_next() -> None:
    entries = [user(result([IMAGE])), {"role": "assistant", "content": "seen"}]
    assert [message["role"] for message in messages(*entries, bounds=SEEING)] == ["tool", "user", "assistant"]


def test_an_image_of_the_users_last_turn_is_refused_by_a_model_without_eyes() -> None:
    error = refused(messages=[user("a"), {"role": "assistant", "content": "b"}, user(text("see"), IMAGE)])
    assert error.param == "messages[2]"
    assert "takes no images" in error.message


def test_an_image_of_an_older_turn_ends_no_session() -> None:
    entries = [user(text("see"), IMAGE), {"role": "assistant", "content": "b"}, user("go on")]
    assert messages(*entries)[0] == {"role": "user", "content": f"see\n\n{NO_IMAGE}"}


def test_the_oldest_images_give_way_where_there_are_too_many() -> None:
    turn = [user(text("see"), IMAGE), {"role": "assistant", "content": "b"}]
    shown = messages(*turn, *turn, *turn, user("go on"), bounds=SEEING)
    kinds = [type(message["content"]) for message in shown if message["role"] == "user"]
    assert kinds == [str, list, list, str]


# Row: tool_reference, and tools that are deferred

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA, "defer_loading": True}
SEARCH = {"name": "ToolSearch", "description": "Find tools.", "input_schema": {"type": "object"}}


def test_deferred_tools_are_told_where_they_are_found_and_not_among_the_tools() -> None:
    found = user(result([{"type": "tool_reference", "tool_name": "weather"}]))
    asked = prompt(messages=[found], tools=[SEARCH, WEATHER])
    assert asked.tools is not None
    assert [tool["function"]["name"] for tool in asked.tools] == ["ToolSearch"]
    told = json.loads(asked.messages[0]["content"])
    assert told == {"name": "weather", "description": "The weather.", "parameters": SCHEMA}


def test_a_reference_to_a_tool_that_is_gone_is_its_name() -> None:
    assert messages(user(result([{"type": "tool_reference", "tool_name": "gone"}])))[0]["content"] == "gone"


def test_nothing_is_deferred_where_only_a_hosted_search_could_find_it() -> None:
    hosted = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    found = translated(tools=[hosted, WEATHER])
    assert isinstance(found.request.prompt, ChatPrompt)
    assert found.request.prompt.tools is not None
    assert [tool["function"]["name"] for tool in found.request.prompt.tools] == ["weather"]
    assert found.left_out == ("tool tool_search_tool_regex",)


# Row: thinking


def test_thinking_goes_back_as_it_came() -> None:
    thought = [
        {"type": "thinking", "thinking": "so ", "signature": "x"},
        {"type": "redacted_thinking", "data": "?"},
        {"type": "thinking", "thinking": "what"},
        text("\n\nlooking"),
        use(command="ls"),
        text(" more"),
    ]
    assert messages(user("a"), {"role": "assistant", "content": thought})[1] == {
        "role": "assistant",
        "content": "\n\nlooking more",
        "reasoning_content": "so what",
        "tool_calls": [
            {"type": "function", "id": "t1", "function": {"name": "Bash", "arguments": {"command": "ls"}}}
        ],
    }


@pytest.mark.parametrize(
    ("thinking", "kwargs"),
    [
        (None, {}),
        ({"type": "adaptive", "display": "omitted"}, {}),
        ({"type": "enabled", "budget_tokens": 31999}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
    ],
)
def test_thinking_is_switched_where_the_client_says_so(thinking: Any, kwargs: dict[str, Any]) -> None:
    assert prompt(thinking=thinking).template_kwargs == kwargs


def test_a_switch_that_the_operator_does_not_allow_is_no_fault_of_the_client() -> None:
    arguments = {**template_arguments(()), "enable_thinking": frozenset({"true"})}
    bounds = Bounds(allowlist=Allowlist(arguments=arguments))
    assert prompt(bounds, thinking={"type": "disabled"}).template_kwargs == {}


# Row: tool_use and tools


def test_tools_are_functions_and_hosted_ones_are_named() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {
            "name": "Bash",
            "description": "Runs.",
            "input_schema": SCHEMA,
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "custom", "name": "bare"},
    ]
    found = translated(tools=tools)
    assert isinstance(found.request.prompt, ChatPrompt)
    assert found.request.prompt.tools == (
        {"type": "function", "function": {"name": "Bash", "description": "Runs.", "parameters": SCHEMA}},
        {"type": "function", "function": {"name": "bare"}},
    )
    assert found.left_out == ("tool web_search",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"a": 1}, {"a": 1}),
        (None, {}),
        ('{"a": 1}', '{"a": 1}'),
        ("{broken", {"input": "{broken"}),
        ([1], {"input": [1]}),
    ],
)
def test_past_arguments_never_end_a_session(given: Any, kept: Any) -> None:
    called = {**use(), "input": given}
    (call,) = messages(user("a"), {"role": "assistant", "content": [called]})[1]["tool_calls"]
    assert call["function"]["arguments"] == kept


# Row: tool_choice

BASH = {"name": "Bash", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (None, ["Bash", "ToolSearch"]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["Bash", "ToolSearch"]),
        ({"type": "any"}, ["Bash", "ToolSearch"]),
        ({"type": "none"}, []),
        ({"type": "tool", "name": "Bash"}, ["Bash"]),
        ({"type": "tool", "name": "web_search"}, ["Bash", "ToolSearch"]),
        ({"type": "odd"}, ["Bash", "ToolSearch"]),
    ],
)
def test_tool_choice_is_that_of_chat(choice: Any, offered: list[str]) -> None:
    hosted = {"type": "web_search_20250305", "name": "web_search"}
    tools = prompt(tools=[BASH, SEARCH, hosted], tool_choice=choice).tools
    assert [tool["function"]["name"] for tool in tools or ()] == offered


# Rows: max_tokens, stop_sequences, sampling, what is ignored


def test_limits_and_sampling_are_taken_over() -> None:
    request = translated(
        max_tokens=32000, stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=40, stream=True
    ).request
    assert request.max_tokens == 32000
    assert request.stream
    assert request.sampling == {"stop": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 40}
    assert request.model == "m"


def test_what_says_nothing_to_the_model_is_ignored() -> None:
    extra = {
        "metadata": {"user_id": "{}"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "container": None,
    }
    assert translated(**extra).request == translated().request


def test_a_format_is_left_out_and_named() -> None:
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    assert translated(output_config={"format": schema}).left_out == ("output_config.format",)


def test_the_marks_of_caching_do_not_reach_the_prompt() -> None:
    marked = {"cache_control": {"type": "ephemeral"}}
    plain = prompt(messages=[user("a"), {"role": "system", "content": "S"}], system=[text("R")])
    cached = prompt(
        messages=[user({**text("a"), **marked}), {"role": "system", "content": [{**text("S"), **marked}]}],
        system=[{**text("R"), **marked}],
    )
    assert cached == plain


# Never stricter than needed


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "document", "source": {"type": "text", "data": "words"}}, "words"),
        (
            {"type": "document", "source": {"type": "base64", "data": "x"}, "title": "a.pdf"},
            "[document: a.pdf, not shown]",
        ),
        ({"type": "search_result", "source": "s"}, "[search_result: not shown]"),
        ({"type": 7}, ""),
        ({}, ""),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, NO_IMAGE),
    ],
)
def test_blocks_that_cannot_be_shown_are_short_texts(block: Any, shown: str) -> None:
    assert messages(user([block]))[0]["content"] == shown


def test_binary_output_and_cut_text_end_no_session() -> None:
    body = b'{"messages": [{"role": "user", "content": "ELF\\u0000 \\\\u0000 \\ud83d"}]}'
    found = messages_request(body, Bounds()).request.prompt
    assert isinstance(found, ChatPrompt)
    assert found.messages[0]["content"] == "ELF\ufffd \\u0000 \ufffd"


def test_an_answer_without_content_is_left_out() -> None:
    entries = [user("a"), {"role": "assistant", "content": []}, user("b")]
    assert messages(*entries) == [{"role": "user", "content": "a\n\nb"}]


# Faults name the client's own field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [user("a"), user([{"type": "text"}])]}, "messages[1].content[0].text"),
        (
            {"messages": [user([result([{"type": "text", "text": 7}])])]},
            "messages[0].content[0].content[0].text",
        ),
        ({"messages": [user([{"type": "tool_use", "id": "x"}])]}, "messages[0].content[0].name"),
        ({"system": [{"type": "text", "text": None}]}, "system[0].text"),
        ({"tools": {}}, "tools"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": [7]}, "stop_sequences"),
    ],
)
def test_a_fault_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert f"`{param}`" in error.message


def test_a_fault_never_repeats_what_was_sent() -> None:
    assert "secret" not in refused(messages=[{"role": "secret", "content": "secret"}]).message
    assert "secret" not in refused(messages="secret").message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        messages_request(body, Bounds())


# Counting


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [], "tools": [BASH]},
        {"tools": [BASH]},
        {"messages": "foo"},
        {"messages": [user("foo")]},
    ],
)
def test_a_count_may_be_of_tools_alone(body: dict[str, Any]) -> None:
    found = count_request(json.dumps({"model": "m", **body}).encode(), Bounds()).request.prompt
    assert isinstance(found, ChatPrompt)
    assert found.messages == ({"role": "user", "content": "foo" if body.get("messages") else ""},)
    assert bool(found.tools) == ("tools" in body)


def test_a_count_is_of_the_prompt_that_a_message_would_make() -> None:
    body = {
        "messages": [user("a")],
        "system": "S",
        "tools": [BASH, WEATHER],
        "thinking": {"type": "disabled"},
    }
    raw = json.dumps(body).encode()
    assert count_request(raw, Bounds()).request.prompt == messages_request(raw, Bounds()).request.prompt
