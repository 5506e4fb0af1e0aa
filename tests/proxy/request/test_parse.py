from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import GatewayError, InvalidRequest
from proxy.request import sampling
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest, TextPrompt
from proxy.request.mends import Mends
from proxy.request.parse import ignored, load_body, parse_chat, parse_text

BOUNDS = Bounds(vocab_size=1024)
USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> CompletionRequest:
    return parse_chat(orjson.dumps({"messages": [USER], **fields}), BOUNDS)


def text(**fields: Any) -> CompletionRequest:
    return parse_text(orjson.dumps({"prompt": "hi", **fields}), BOUNDS)


def sent(request: CompletionRequest, *, stream: bool = True) -> dict[str, Any]:
    """What the child would be sent."""
    body: dict[str, Any] = orjson.loads(
        request.upstream_body(prompt=request.prompt, max_tokens=7, stream=stream)
    )
    return body


def refused(body: bytes | dict[str, Any], parse: Any = parse_chat) -> str | None:
    """The field that a refusal names."""
    with pytest.raises(InvalidRequest) as refusal:
        parse(body if isinstance(body, bytes) else orjson.dumps(body), BOUNDS)
    return refusal.value.param


def test_a_plain_request() -> None:
    request = chat(model="m", temperature=0.5, max_tokens=9)
    assert request == CompletionRequest(
        ChatPrompt((USER,)), model="m", sampling={"temperature": 0.5}, max_tokens=9
    )
    assert request.is_chat


def test_a_text_request() -> None:
    request = text(logprobs=2, echo=False, best_of=1, suffix="")
    assert request.prompt == TextPrompt("hi")
    assert not request.is_chat
    assert sent(request, stream=False) == {
        "model": "default_model",
        "prompt": "hi",
        "max_tokens": 7,
        "stream": False,
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize("prompt", [["hi"], "hi"])
def test_a_list_of_one_text_is_that_text(prompt: Any) -> None:
    assert text(prompt=prompt).prompt == TextPrompt("hi")


@pytest.mark.parametrize("prompt", [None, "", [], [""], ["a", "b"], [1, 2], [[1, 2]], 5, {"a": 1}])
def test_prompts_that_kill_the_server_are_refused(prompt: Any) -> None:
    assert refused({"prompt": prompt}, parse_text) == "prompt"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, False)),
        ({"stream": None}, (False, False)),
        ({"stream": True}, (True, False)),
        ({"stream": True, "stream_options": None}, (True, False)),
        ({"stream": True, "stream_options": {}}, (True, False)),
        ({"stream": True, "stream_options": {"include_usage": None}}, (True, False)),
        ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, (True, True)),
        ({"stream": False, "stream_options": {"include_usage": True}}, (False, False)),
    ],
)
def test_streaming(fields: dict[str, Any], expected: tuple[bool, bool]) -> None:
    request = chat(**fields)
    assert (request.stream, request.include_usage) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_max_tokens(fields: dict[str, Any], expected: int | None) -> None:
    assert chat(**fields).max_tokens == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"model": 5}, "model"),
        ({"model": "x" * 1000}, "model"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"adapters": "x"}, "adapters"),
        ({"draft_model": "x"}, "draft_model"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"padding": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thinking": {}}}, "chat_template_kwargs.thinking"),
        ({"top_k": -3}, "top_k"),
        ({"logit_bias": {"1024": 1}}, "logit_bias"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    assert refused({"messages": [USER], **fields}) == param


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "best_of": None, "adapters": None, "draft_model": None},
        {"response_format": {"type": "text"}},
        {
            "response_format": None,
            "tools": None,
            "tool_choice": None,
            "functions": [],
            "function_call": "auto",
        },
        {"chat_template_kwargs": None},
    ],
)
def test_what_asks_for_nothing_special_is_left_out(fields: dict[str, Any]) -> None:
    assert chat(**fields) == chat()


NESTED = b"[" * 300 + b"]" * 300
MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"null", None),
        (b"[]", None),
        (b'"x"', None),
        (b"{}", "messages"),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', None),
        (b'{"messages":[{"role":"user","content":"x"},{"role":"\\u0000"}]}', "messages[1].role"),
        (b"{" + MESSAGES + b',"x":' + NESTED + b"}", None),
        (b'{"messages":' + NESTED + b"}", None),
        (b"[" * 5000, None),
    ],
)
def test_bad_bodies(body: bytes, param: str | None) -> None:
    assert refused(body) == param


@pytest.mark.parametrize(
    ("body", "said", "mends"),
    [
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "\ufffd", "surrogate_replaced=1"),
        (b'{"messages":[{"role":"user","content":"a\\u0000b"}]}', "a\ufffdb", "nul_replaced=1"),
        (
            b'{"messages":[{"role":"user","content":[{"type":"text","text":"\\u0000"}]}]}',
            "\ufffd",
            "nul_replaced=1",
        ),
        (b"{" + MESSAGES + b',"temperature":NaN}', "hi", "number_to_null=1"),
        (b"{" + MESSAGES + b',"temperature":1e999}', "hi", "number_to_null=1"),
        (b"{" + MESSAGES + b',"stop":"\\u0000"}', "hi", "nul_replaced=1"),
    ],
)
def test_odd_characters_and_numbers_are_mended(body: bytes, said: str, mends: str) -> None:
    request = parse_chat(body, BOUNDS)
    assert isinstance(request.prompt, ChatPrompt)
    assert (request.prompt.messages[0]["content"], request.mends.header()) == (said, mends)


def test_a_nul_is_mended_in_every_string_of_a_request() -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "a\0", "parameters": {"k\0": ["\0"]}},
    }
    request = parse_chat(
        json.dumps({"messages": [{"role": "system", "content": "s\0"}], "tools": [tool]}).encode(), BOUNDS
    )
    assert "\0" not in json.dumps(request.prompt.fields(), ensure_ascii=False)
    assert request.mends.header() == "nul_replaced=4"


def test_a_text_prompt_is_mended_too() -> None:
    request = parse_text(b'{"prompt":"a\\u0000"}', BOUNDS)
    assert (request.prompt, request.mends.header()) == (TextPrompt("a\ufffd"), "nul_replaced=1")


def test_functions_are_tools() -> None:
    request = chat(functions=[{"name": "f", "parameters": {}}, {"name": "g"}], function_call={"name": "g"})
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools == ({"type": "function", "function": {"name": "g"}},)


def test_the_word_for_nul_in_source_code_is_not_a_nul() -> None:
    assert chat(messages=[{"role": "user", "content": r"c == '\u0000'"}])


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_chat(b"\xef\xbb\xbf{" + MESSAGES + b"}", BOUNDS) == chat()


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What a client usually sends, or now and then anything at all."""
    return st.integers(0, 24).flatmap(lambda drawn: values if drawn == 24 else usual)


def objects(
    required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    return mostly(
        st.fixed_dictionaries(
            {name: mostly(field) for name, field in required.items()},
            optional={name: mostly(field) for name, field in optional.items()},
        )
    )


parts = objects({"type": st.sampled_from(["text", "input_text"]), "text": st.text(max_size=5)})
calls = objects(
    {
        "function": objects(
            {"name": st.just("f"), "arguments": st.sampled_from(["{}", "", '{"a": 1}', {"a": 1}])}
        )
    },
    id=st.text(max_size=3),
    type=st.just("function"),
)
messages = objects(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    content=st.text(max_size=9) | st.lists(parts, max_size=3) | st.none(),
    name=st.text(max_size=3),
    reasoning=st.text(max_size=3),
    tool_calls=st.lists(calls, max_size=2),
)
bodies = objects(
    {"messages": st.lists(messages, min_size=1, max_size=3), "prompt": st.text(min_size=1, max_size=9)},
    tools=st.lists(
        objects({"type": st.just("function"), "function": objects({"name": st.just("f")})}), max_size=2
    ),
    tool_choice=st.sampled_from(["auto", "none"]),
    logprobs=st.booleans(),
    top_logprobs=st.integers(0, 11),
    stream=st.booleans(),
    stream_options=objects({}, include_usage=st.booleans()),
    max_tokens=st.integers(1, 99),
    model=st.text(max_size=9),
    chat_template_kwargs=objects({}, enable_thinking=st.booleans()),
    stop=st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    logit_bias=st.dictionaries(st.integers(0, 1023).map(str), st.floats(-100, 100), max_size=3),
    **{
        name: st.none() | st.integers(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
        for name in sorted(sampling.NAMES - {"stop", "logit_bias"})
    },
)


@settings(max_examples=1000, deadline=None)
@given(body=bodies, parse=st.sampled_from([parse_chat, parse_text]))
def test_any_json_is_refused_or_understood_once_and_for_all(body: Any, parse: Any) -> None:
    try:
        raw = orjson.dumps(body)
    except (
        TypeError,
        ValueError,
    ):  # integers beyond 64 bits and lone surrogates: only other encoders write them
        raw = json.dumps(body).encode()
    try:
        request = parse(raw, BOUNDS)
    except GatewayError as error:
        assert not re.search("429|500|502|503|504|524", error.message)
        return
    again = parse(request.upstream_body(prompt=request.prompt, max_tokens=5, stream=True), BOUNDS)
    assert (again.prompt, again.sampling) == (request.prompt, request.sampling)
    assert again.fingerprint() == request.fingerprint()
    assert again.dropped == ()


@settings(max_examples=1000, deadline=None)
@given(
    raw=st.binary(max_size=64) | values.map(json.dumps).map(str.encode),
    parse=st.sampled_from([parse_chat, parse_text]),
)
def test_any_bytes_are_refused_with_an_error_of_ours(raw: bytes, parse: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse(raw, BOUNDS)


def without_odd_characters(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=()), max_size=20), max_size=3))
def test_any_text_is_read_and_only_nul_and_lone_surrogates_change(fields: dict[str, str]) -> None:
    assert load_body(json.dumps(fields).encode(), Mends()) == {
        without_odd_characters(key): without_odd_characters(text) for key, text in fields.items()
    }


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
def test_characters_that_are_mended(body: bytes, value: str) -> None:
    assert load_body(body, Mends()) == {"a": value}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b'{"a": ' * 201 + b"1" + b"}" * 201])
def test_bodies_that_no_parser_takes(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        load_body(body, Mends())


def test_the_models_own_sampling_holds_where_the_request_names_none() -> None:
    bounds = Bounds(vocab_size=1024, sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 20})
    body = {"messages": [USER], "temperature": 0, "top_k": -1}
    request = parse_chat(orjson.dumps(body), bounds)
    assert request.sampling == {"temperature": 0.0, "top_p": 0.95}
    assert request.from_model == ("top_p",)
    assert parse_text(orjson.dumps({"prompt": "hi"}), bounds).sampling == bounds.sampling


def test_fields_that_ask_for_something_are_named_and_others_are_not() -> None:
    request = chat(user="u", store=True, guided_json={}, grammar="g", format="json", secret=1, other_secret=2)
    assert ignored(request.dropped) == ["format", "grammar", "guided_json", "other"]
