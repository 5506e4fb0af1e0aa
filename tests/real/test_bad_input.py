"""Bad input against the running proxy: an error that names the field, and a child that never notices."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.real.processes import Gateway

pytestmark = pytest.mark.real

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Bad:
    """A body, the status it gets, and the field that the error names (None: the body as a whole)."""

    body: bytes
    param: str | None = None
    status: int = 400
    path: str = CHAT


def message(content: bytes, role: bytes = b'"user"') -> bytes:
    return b'{"max_tokens":1,"messages":[{"role":%b,"content":%b}]}' % (role, content)


def field(name: str, value: str) -> bytes:
    """A request that is good but for one field, whose JSON text is `value`."""
    return b'{"max_tokens":1,"messages":[{"role":"user","content":"hi"}],"%b":%b}' % (
        name.encode(),
        value.encode(),
    )


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + "0" + closing * levels


WHOLE_BODY = {
    "empty": b"",
    "white space": b" \n",
    "not JSON": b"hello",
    "cut JSON": b'{"messages": [',
    "trailing text": field("stream", "false") + b"x",
    "two documents": b"{}{}",
    "a list": b"[]",
    "a string": b'"hello"',
    "a number": b"1",
    "null": b"null",
    "single quotes": b"{'messages': []}",
    "a trailing comma": b'{"messages": [],}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "invalid UTF-8": message(b'"\xff\xfe"'),
    "a cut UTF-8 sequence": message(b'"\xe2\x82"'),
    "overlong UTF-8": message(b'"\xc0\xaf"'),
    "a raw lone surrogate": message(b'"\xed\xa0\x80"'),
    "a raw NUL": message(b'"a\x00b"'),
    "a raw control character": message(b'"a\x1fb"'),
    "nothing but NULs": b"\0" * 1000,
    "200 lists deep": field("messages", nested(200)),
    "200 objects deep": field("metadata", nested(200, '{"a":', "}")),
    "100,000 lists deep": field("x", nested(100_000)),
    "1,000,000 open lists": b"[" * 1_000_000,
    "a number of 5,000 digits": b'{"messages":' + b"9" * 5000,
}

FIELDS = {
    "no messages": Bad(b"{}", "messages"),
    "messages null": Bad(b'{"messages":null}', "messages"),
    "messages empty": Bad(b'{"messages":[]}', "messages"),
    "messages a string": Bad(b'{"messages":"hi"}', "messages"),
    "messages an object": Bad(b'{"messages":{"role":"user","content":"hi"}}', "messages"),
    "the last of two messages keys counts": Bad(
        b'{"messages":[{"role":"user","content":"hi"}],"messages":[]}', "messages"
    ),
    "a message that is a string": Bad(b'{"messages":["hi"]}', "messages[0]"),
    "a message that is null": Bad(b'{"messages":[null]}', "messages[0]"),
    "a message without role": Bad(b'{"messages":[{"content":"hi"}]}', "messages[0].role"),
    "an unknown role": Bad(message(b'"hi"', b'"wizard"'), "messages[0].role"),
    "a role that is a number": Bad(message(b'"hi"', b"1"), "messages[0].role"),
    "a role that is a list": Bad(message(b'"hi"', b'["user"]'), "messages[0].role"),
    "an image": Bad(
        message(b'[{"type":"image_url","image_url":{"url":"http://127.0.0.1:1/x.png"}}]'),
        "messages[0].content[0].type",
    ),
    "audio": Bad(message(b'[{"type":"input_audio","input_audio":{}}]'), "messages[0].content[0].type"),
    "a file": Bad(
        message(b'[{"type":"text","text":"a"},{"type":"file","file":{}}]'), "messages[0].content[1].type"
    ),
    "a part that is a number": Bad(message(b"[1]"), "messages[0].content[0]"),
    "a part whose type is a list": Bad(message(b'[{"type":[]}]'), "messages[0].content[0].type"),
    "tool calls a string": Bad(
        b'{"messages":[{"role":"assistant","tool_calls":"f"}]}', "messages[0].tool_calls"
    ),
    "tools a string": Bad(field("tools", '"x"'), "tools"),
    "a tool without function": Bad(field("tools", '[{"type":"function"}]'), "tools[0].function"),
    "tool_choice of an unknown tool": Bad(
        field("tool_choice", '{"type":"function","function":{"name":"f"}}'), "tool_choice"
    ),
    "model a number": Bad(field("model", "5"), "model"),
    "model an object": Bad(field("model", "{}"), "model"),
    "another model": Bad(field("model", '"gpt-4"'), "model", 404),
    "a model that is a path": Bad(field("model", '"../../etc"'), "model", 404),
    "stream a string": Bad(field("stream", '"yes"'), "stream"),
    "stream a number": Bad(field("stream", "1"), "stream"),
    "temperature a string": Bad(field("temperature", '"hot"'), "temperature"),
    "a number beyond doubles": Bad(field("temperature", "9" * 400), "temperature"),
    "temperature out of range": Bad(field("temperature", "-1"), "temperature"),
    "max_tokens negative": Bad(field("max_completion_tokens", "-5"), "max_completion_tokens"),
    "max_tokens huge": Bad(field("max_completion_tokens", "9" * 30), "max_completion_tokens"),
    "max_tokens a float": Bad(field("max_completion_tokens", "1.5"), "max_completion_tokens"),
    "max_tokens true": Bad(field("max_completion_tokens", "true"), "max_completion_tokens"),
    "top_p a list": Bad(field("top_p", "[1]"), "top_p"),
    "top_k a string": Bad(field("top_k", '"5"'), "top_k"),
    "top_k beyond 64 bits": Bad(field("top_k", "1" + "0" * 25), "top_k"),
    "stop a number": Bad(field("stop", "5"), "stop"),
    "stop a list of numbers": Bad(field("stop", "[1]"), "stop[0]"),
    "logit_bias outside the vocabulary": Bad(field("logit_bias", '{"999999999":1}'), "logit_bias"),
    "logit_bias of words": Bad(field("logit_bias", '{"the":1}'), "logit_bias"),
    "logit_bias a list": Bad(field("logit_bias", "[1]"), "logit_bias"),
    "seed a string": Bad(field("seed", '"x"'), "seed"),
    "seed beyond 64 bits": Bad(field("seed", "1" + "0" * 30), "seed"),
    "n above one": Bad(field("n", "2"), "n"),
    "a JSON schema that is missing": Bad(
        field("response_format", '{"type":"json_schema"}'), "response_format.json_schema.schema"
    ),
    "adapters": Bad(field("adapters", '"/etc"'), "adapters"),
    "draft_model": Bad(field("draft_model", '"x"'), "draft_model"),
    "a chat template": Bad(
        field("chat_template_kwargs", '{"chat_template":"{{ 1/0 }}"}'), "chat_template_kwargs"
    ),
    "tokenizer arguments": Bad(field("chat_template_kwargs", '{"tokenize":false}'), "chat_template_kwargs"),
    "stream_options a list": Bad(
        b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":[1]}', "stream_options"
    ),
    "logprobs a string": Bad(field("logprobs", '"all"'), "logprobs"),
    "too many logprobs": Bad(field("top_logprobs", "1000"), "top_logprobs"),
    "an empty prompt": Bad(b'{"prompt":""}', "prompt", path=TEXT),
    "no prompt": Bad(b"{}", "prompt", path=TEXT),
    "a prompt of token ids": Bad(b'{"prompt":[1,2,3]}', "prompt", path=TEXT),
    "two prompts": Bad(b'{"prompt":["a","b"]}', "prompt", path=TEXT),
    "echo": Bad(b'{"prompt":"a","echo":true}', "echo", path=TEXT),
    "suffix": Bad(b'{"prompt":"a","suffix":"b"}', "suffix", path=TEXT),
    "10 MB of one message": Bad(message(b'"' + b"word " * 2_000_000 + b'"'), "messages"),
    "10 MB without a space": Bad(message(b'"' + b"a" * 10_000_000 + b'"'), "messages"),
    "30 MB in messages": Bad(
        b'{"messages":[' + b",".join([b'{"role":"user","content":"%b"}' % (b"abc " * 750)] * 10_000) + b"]}",
        "messages",
    ),
    "more than max_body_bytes": Bad(message(b'"' + b"a" * 65_000_000 + b'"'), None, 413),
}

#: Odd, and mended: the body and what the response says was done.
MENDED = {
    "NaN": (field("temperature", "NaN"), "number_to_null=1"),
    "Infinity": (field("temperature", "-Infinity"), "number_to_null=1"),
    "an escaped high surrogate": (message(rb'"\ud800"'), "surrogate_replaced=1"),
    "an escaped low surrogate": (message(rb'"x\udc00y"'), "surrogate_replaced=1"),
    "surrogates in the wrong order": (message(rb'"\udc00\ud800"'), "surrogate_replaced=1"),
    "a surrogate in a key": (field(r"\ud800", "1"), "surrogate_replaced=1"),
    "content a number": (message(b"5"), "content_to_text=1"),
    "content an object": (message(b'{"text":"hi"}'), "content_to_text=1"),
    "a part without text": (message(b'[{"type":"text"}]'), "content_to_text=1"),
    "an escaped NUL": (message(rb'"a\u0000b"'), "nul_replaced=1"),
    "an escaped NUL in a name": (
        rb'{"max_tokens":1,"messages":[{"role":"user","content":"a","name":"\u0000"}]}',
        "nul_replaced=1",
    ),
    "tool arguments that are no JSON": (
        b'{"max_tokens":1,"messages":[{"role":"assistant",'
        b'"tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]}',
        "arguments_kept_as_text=1",
    ),
    "a tool of another type": (field("tools", '[{"type":"web_search"}]'), "tool_omitted=1"),
}

CASES = {name: Bad(body) for name, body in WHOLE_BODY.items()} | FIELDS


def post(proxy: Gateway, path: str, body: bytes, timeout_s: float = 60) -> tuple[int, dict[str, Any]]:
    """Status and document. One connection per request, as a client that has been refused would have."""
    port = int(proxy.url.rpartition(":")[2])
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may be answered before all is sent
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.headers["content-type"] == "application/json"
        document: dict[str, Any] = json.loads(answer.read())
        return answer.status, document


@pytest.fixture(scope="module")
def generation(shared_guard: Gateway) -> Iterator[int]:
    """The generation that has to live through all of this."""
    yield shared_guard.status()["child"]["generation"]


@pytest.mark.parametrize("name", MENDED)
def test_odd_input_is_mended_and_the_response_says_so(
    shared_guard: Gateway, generation: int, name: str
) -> None:
    body, mended = MENDED[name]
    request = urllib.request.Request(
        shared_guard.url + CHAT, body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["x-mlxguard-mended"] == mended
        assert response.headers["x-mlxguard-left-out"] == (
            "tool web_search" if "tool_omitted" in mended else None
        )
        assert json.loads(response.read())["choices"]
    assert shared_guard.status()["child"]["generation"] == generation


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_by_its_field_and_hurts_nobody(
    shared_guard: Gateway, generation: int, name: str
) -> None:
    bad = CASES[name]
    status, document = post(shared_guard, bad.path, bad.body)
    error = document["error"]
    assert (status, error["param"]) == (bad.status, bad.param), error
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    status, answer = post(shared_guard, CHAT, message(b'"canary"'))
    assert (status, answer["usage"]["completion_tokens"]) == (200, 1)
    assert shared_guard.status()["child"]["generation"] == generation
