"""Tests of mending: odd messages that were seen to end sessions, and that nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.request.images import ImagePolicy
from proxy.request.mend import mend
from proxy.request.mends import Mend, Mends

BLIND = ImagePolicy()
SEEING = ImagePolicy(most=4, obstacle=None)
PNG = "data:image/png;base64,iVBORw0KGgo="
PICTURE = {"type": "image_url", "image_url": {"url": PNG}}


def mended(fields: dict[str, Any], images: ImagePolicy = BLIND) -> tuple[dict[str, Any], dict[str, int]]:
    mends = Mends()
    result = mend(fields, images, mends)
    return result, {str(kind): count for kind, count in mends.counts.items()}


def history(*messages: dict[str, Any], images: ImagePolicy = BLIND) -> tuple[list[Any], dict[str, int]]:
    """These messages, followed by a plain user message, after mending."""
    fields, counts = mended({"messages": [*messages, {"role": "user", "content": "go on"}]}, images)
    assert fields["messages"][-1] == {"role": "user", "content": "go on"}
    return fields["messages"][:-1], counts


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": function, **more}],
    }


@pytest.mark.parametrize(
    ("content", "text"), [({"ok": True, "n": [1]}, '{"ok": true, "n": [1]}'), (3, "3"), (False, "false")]
)
def test_content_that_is_no_text(content: Any, text: str) -> None:
    messages, counts = history({"role": "tool", "tool_call_id": "1", "content": content})
    assert messages[0]["content"] == text
    assert counts == {"content_to_text": 1}


def test_thinking_as_parts_is_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": "so", "signature": "x"}, {"type": "text", "text": "yes"}]
    messages, counts = history({"role": "assistant", "content": parts})
    assert messages == [
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}], "reasoning_content": "so"}
    ]
    assert counts == {"part_converted": 1}


def test_tool_use_and_its_result_as_parts() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "."}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a.py"}]}
    messages, _ = history(
        {"role": "assistant", "content": [{"type": "text", "text": "I look"}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        {"role": "user", "content": [result]},
    )
    answer = {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "a.py"}]}
    assert messages == [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I look"}],
            "tool_calls": [
                {"type": "function", "function": {"name": "ls", "arguments": {"path": "."}}, "id": "t1"}
            ],
        },
        answer,
        {"role": "user", "content": [{"type": "text", "text": "and?"}]},
        answer,
    ]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "[input_audio omitted]"),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}}, "[file omitted: a.pdf]"),
        ({"type": "document", "title": "Notes"}, "[document omitted: Notes]"),
        ({"type": "new_kind", "text": "its text"}, "its text"),
    ],
)
def test_parts_that_the_model_cannot_have(part: dict[str, Any], text: str) -> None:
    messages, counts = history({"role": "user", "content": [part]})
    assert messages[0]["content"] == [{"type": "text", "text": text}]
    assert counts == {"part_omitted": 1}


def test_a_screenshot_in_a_tool_result() -> None:
    messages, counts = history({"role": "tool", "tool_call_id": "1", "content": [PICTURE]})
    assert messages[0]["content"][0]["text"] == "[image omitted: this model takes no images]"
    assert counts == {"image_omitted": 1}


def test_the_last_user_message_stays_strict() -> None:
    for part in (PICTURE, {"type": "file", "file": {}}):
        fields = {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "wait"}]}
        assert mended(fields) == (fields, {})


def test_images_stay_where_the_model_sees() -> None:
    messages, counts = history({"role": "user", "content": [PICTURE]}, images=SEEING)
    assert (messages[0]["content"], counts) == ([PICTURE], {})


def test_early_images_go_in_steps_of_half_the_limit() -> None:
    def kept(number: int) -> list[bool]:
        shots = [{"role": "tool", "tool_call_id": "1", "content": [PICTURE]} for _ in range(number)]
        return [message["content"] == [PICTURE] for message in history(*shots, images=SEEING)[0]]

    assert kept(4) == [True] * 4
    assert kept(5) == [False] * 2 + [True] * 3
    assert kept(6) == [False] * 2 + [True] * 4
    assert kept(7) == [False] * 4 + [True] * 3


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
WELL_FORMED = st.lists(
    st.one_of(
        st.builds(lambda text: {"role": "user", "content": text}, st.text()),
        st.builds(lambda text: {"role": "system", "content": [{"type": "text", "text": text}]}, st.text()),
        st.builds(lambda value: call(json.dumps({"a": value}), id="x"), st.integers() | TEXT),
        st.builds(lambda text: {"role": "tool", "tool_call_id": "x", "content": text}, st.text()),
    ),
    max_size=6,
)


@given(WELL_FORMED)
def test_a_body_without_odd_items_is_not_touched(messages: list[dict[str, Any]]) -> None:
    fields = {"messages": messages, "tools": [{"type": "function", "function": {"name": "f"}}]}
    text = json.dumps(fields)
    result, counts = mended(fields)
    assert (json.dumps(result), counts) == (text, {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "tool_use_id",
        "id",
        "custom",
    ]
)
ODD = st.recursive(JSON, lambda inner: st.dictionaries(KEYS, inner, max_size=5) | st.lists(inner, max_size=3))


@given(st.lists(ODD, max_size=4), ODD, ODD)
def test_nothing_makes_it_fail(messages: list[Any], tools: Any, choice: Any) -> None:
    """Whatever it is given, the strict checks judge it afterwards."""
    mended({"messages": messages, "tools": tools, "tool_choice": choice})


@given(st.lists(ODD, max_size=4))
def test_what_was_mended_needs_no_second_mending(messages: list[Any]) -> None:
    once, _ = mended({"messages": messages})
    twice, counts = mended(once)
    assert (twice, counts) == (once, {}) or Mend.ARGUMENTS in counts
