"""Tests of adapting conversations to a template: each step, and that nothing changes without need."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.request.adapt import adapt, adapt_tools, short_id
from proxy.request.mends import Mends
from proxy.request.template_traits import TemplateTraits, known

UUID = "0b9f8a4e-53c2-4d51-9a3e-6f1d2c7b8e90"
#: A template that refuses all that any template was seen to refuse.
STRICTEST = replace(
    TemplateTraits(), **{each.name: False for each in fields(TemplateTraits) if each.type == "bool"}
)


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def calls(*ids: str, arguments: Any = "{}", content: str = "") -> dict[str, Any]:
    called = [{"type": "function", "id": id, "function": {"name": "f", "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": content, "tool_calls": called}


def result(id: str, content: str = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def adapted(*messages: dict[str, Any], **refused: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
    mends = Mends()
    traits = replace(TemplateTraits(), **refused)
    return list(adapt(messages, traits, mends)), {str(kind): n for kind, n in mends.counts.items() if n}


def test_two_system_messages_in_front_become_one() -> None:
    messages, mends = adapted(say("system", "a"), say("system", "b"), say("user", "u"), two_systems=False)
    assert messages == [say("system", "a\n\nb"), say("user", "u")]
    assert mends == {"system_message_moved": 1}


def test_a_later_system_message_is_text_of_the_next_user_message() -> None:
    messages, mends = adapted(
        say("system", "a"), say("user", "u"), say("system", "now"), say("user", "v"), later_system=False
    )
    reminder = "<system-reminder>\nnow\n</system-reminder>\n\n"
    assert messages == [say("system", "a"), say("user", "u"), say("user", f"{reminder}v")]
    assert mends == {"system_message_moved": 1}


def test_a_later_system_message_before_an_answer_stands_by_itself() -> None:
    messages, _ = adapted(say("user", "u"), say("system", "now"), say("assistant", "a"), later_system=False)
    assert messages[1] == say("user", "<system-reminder>\nnow\n</system-reminder>")


def test_a_system_message_where_there_can_be_none() -> None:
    messages, _ = adapted(say("system", "be brief"), say("user", "u"), system=False)
    assert messages == [say("user", "be brief\n\nu")]


def test_images_stay_in_the_message_that_text_is_added_to() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    messages, _ = adapted(say("system", "s"), say("user", [image]), system=False)
    assert messages == [say("user", [{"type": "text", "text": "s\n\n"}, image])]


def test_ids_are_shortened_alike_for_call_and_result() -> None:
    messages, mends = adapted(say("user", "u"), calls(UUID, "abcDEF123"), result(UUID), long_ids=False)
    assert [call["id"] for call in messages[1]["tool_calls"]] == [short_id(UUID), "abcDEF123"]
    assert messages[2]["tool_call_id"] == short_id(UUID)
    assert mends == {"call_id_shortened": 2}


def test_a_call_without_an_id_gets_one() -> None:
    call = calls("x")
    del call["tool_calls"][0]["id"]
    messages, _ = adapted(call, long_ids=False)
    assert len(messages[0]["tool_calls"][0]["id"]) == 9


def test_arguments_that_are_no_object() -> None:
    messages, mends = adapted(calls("1", arguments="null"), calls("2", arguments=[1]), other_arguments=False)
    assert [m["tool_calls"][0]["function"]["arguments"] for m in messages] == [{}, {"value": [1]}]
    assert mends == {"arguments_kept_as_text": 2}


def test_a_template_that_wants_the_text_of_arguments() -> None:
    """The server reads one layer of JSON, so the template gets the text."""
    messages, _ = adapted(calls("1", arguments='{"a": 1}'), object_arguments=False)
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == '"{\\"a\\": 1}"'


def test_a_result_whose_call_is_gone() -> None:
    messages, mends = adapted(
        say("user", "u"), result("gone"), calls("1"), result("1"), result("2", "other"), orphan_result=False
    )
    assert messages[1] == say("user", "[tool result]\ndone")
    assert messages[2:4] == [calls("1"), result("1")]
    assert messages[4] == say("user", "[tool result]\nother")
    assert mends == {"result_as_text": 2}


def test_calls_as_text_where_no_call_renders() -> None:
    messages, _ = adapted(calls("1", arguments='{"a": 1}', content="I look"), result("1"), calls=False)
    assert messages == [
        say("assistant", 'I look\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'),
        say("user", "[tool result]\ndone"),
    ]


def test_parallel_calls_one_by_one() -> None:
    messages, _ = adapted(
        calls("1", "2", content="both"), result("2", "b"), result("1", "a"), parallel_calls=False
    )
    assert messages == [calls("1", content="both"), result("1", "a"), calls("2"), result("2", "b")]


def test_a_call_that_nothing_answered() -> None:
    messages, _ = adapted(calls("1", "2"), result("1"), say("user", "stop"), unanswered_call=False)
    assert messages == [calls("1", "2"), result("1"), result("2", "(no result)"), say("user", "stop")]


def test_a_call_at_the_end_is_not_answered_for_the_client() -> None:
    assert adapted(say("user", "u"), calls("1"), unanswered_call=False)[0] == [say("user", "u"), calls("1")]


def test_strict_alternation() -> None:
    strict = {"consecutive_users": False, "assistant_first": False, "user_after_result": False}
    messages, _ = adapted(
        say("assistant", "hello"),
        say("user", "a"),
        say("user", "b"),
        calls("1"),
        result("1"),
        say("user", "c"),
        **strict,
    )
    assert messages == [
        say("user", "(continued)"),
        say("assistant", "hello"),
        say("user", "a\n\nb"),
        calls("1"),
        result("1"),
        say("assistant", "(interrupted)"),
        say("user", "c"),
    ]


def test_an_empty_answer_is_left_out() -> None:
    assert adapted(say("user", "a"), say("assistant", ""), say("user", "b"), empty_assistant=False)[0] == [
        say("user", "a"),
        say("user", "b"),
    ]


def test_a_conversation_without_a_user() -> None:
    assert adapted(say("system", "s"), no_user=False)[0] == [say("system", "s"), say("user", "(continued)")]


def test_tools_with_what_the_template_needs() -> None:
    mends = Mends()
    traits = known({"undescribed_tools": False, "tools_without_parameters": False})
    bare = {"type": "function", "function": {"name": "f"}}
    whole = {
        "type": "function",
        "function": {"name": "g", "description": "d", "parameters": {"type": "object"}},
    }
    assert adapt_tools((bare, whole), traits, mends) == (
        {
            "type": "function",
            "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
        },
        whole,
    )
    assert mends.header() == "tool_field_added=1"
    assert adapt_tools(None, traits, mends) is None


MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda role: say(role, role), st.sampled_from(["system", "user", "assistant"])),
        st.builds(
            lambda ids: calls(*ids), st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True)
        ),
        st.builds(result, st.sampled_from("abc")),
    ),
    min_size=1,
    max_size=8,
)


@given(MESSAGES)
def test_a_template_that_takes_everything_gets_everything_as_it_is(messages: list[dict[str, Any]]) -> None:
    mends = Mends()
    assert list(adapt(messages, TemplateTraits(), mends)) == messages
    assert not mends.counts


@given(MESSAGES)
def test_the_strictest_template_gets_alternating_turns(messages: list[dict[str, Any]]) -> None:
    roles = [message["role"] for message in adapt(messages, STRICTEST, Mends())]
    assert "system" not in roles
    assert "tool" not in roles
    assert roles[0] == "user"
    assert all(first != second for first, second in pairwise(roles))


@given(MESSAGES, MESSAGES)
def test_a_growing_conversation_keeps_its_beginning(
    messages: list[dict[str, Any]], more: list[dict[str, Any]]
) -> None:
    """All but its last message, which the next one may be joined to."""
    traits = replace(TemplateTraits(), two_systems=False, later_system=False, orphan_result=False)
    before = list(adapt([say("user", "hi"), *messages], traits, Mends()))
    after = list(adapt([say("user", "hi"), *messages, *more], traits, Mends()))
    assert after[: len(before) - 1] == before[:-1]
