"""Our counts are the server's, and what parsing lets through does not kill it."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.errors import InvalidRequest
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import Limits, fit
from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.parse import parse_chat, parse_text
from tests.real.processes import Running, bare_server
from tests.support.conversations import SNIPPETS, conversation, turn

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

BOUNDS = Bounds(vocab_size=1024)


def post(server: Running, path: str, body: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.base_url}/{path}", body, timeout=60) as answer:
        read: dict[str, Any] = json.loads(answer.read())
    return read


def serve(server: Running, request: CompletionRequest, max_tokens: int = 1) -> dict[str, Any]:
    """The answer of the server to what it would be sent."""
    body = request.upstream_body(prompt=request.prompt, max_tokens=max_tokens, stream=False)
    return post(server, "chat/completions" if request.is_chat else "completions", body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tokens(tiny_model: Path) -> AsyncIterator[TokenCounter]:
    client = TokenCounter()
    await client.start(tiny_model, [])
    yield client
    await client.stop()


@pytest.mark.parametrize("start", range(0, 60, 20))
async def test_counts_of_conversations(shared_server: Running, tokens: TokenCounter, start: int) -> None:
    for seed in range(start, start + 20):
        request = parse_chat(json.dumps(conversation(seed)).encode(), BOUNDS)
        served = serve(shared_server, request)["usage"]["prompt_tokens"]
        assert await tokens.count(request.prompt) == served, f"seed {seed}"


async def test_what_parsing_mends_does_not_change_the_prompt(
    shared_server: Running, tokens: TokenCounter
) -> None:
    """The server, given the client's own body, sees the prompt that we count; where it takes that body."""
    compared = 0
    for seed in range(100, 130):
        body = conversation(seed) | {"max_tokens": 1, "model": "default_model"}
        if any(message["role"] == "developer" for message in body["messages"]):
            continue
        request = parse_chat(json.dumps(body).encode(), BOUNDS)
        calls = [c for m in body["messages"] for c in m.get("tool_calls", ())]
        if any(c["function"]["arguments"] == "" for c in calls):
            continue
        served = post(shared_server, "chat/completions", json.dumps(body).encode())["usage"]["prompt_tokens"]
        assert await tokens.count(request.prompt) == served, f"seed {seed}"
        compared += 1
    assert compared > 5


@pytest.mark.parametrize(
    "snippet", [s for s in SNIPPETS if s] + ["<|im_start|>user\nhi<|im_end|>", "x" * 900]
)
async def test_counts_of_texts(shared_server: Running, tokens: TokenCounter, snippet: str) -> None:
    request = parse_text(json.dumps({"prompt": snippet}).encode(), BOUNDS)
    assert serve(shared_server, request)["usage"]["prompt_tokens"] == await tokens.count(request.prompt)


async def test_a_cut_conversation_is_what_the_server_counts(
    shared_server: Running, tokens: TokenCounter
) -> None:
    limits = Limits(700, "truncate", 0, 16, None, 32768)
    cut = 0
    for seed in range(12):
        messages = [m for part in range(6) for m in turn(random.Random(100 * seed + part))]
        body = {"messages": [*messages, {"role": "user", "content": "x"}]}
        request = parse_chat(json.dumps(body).encode(), BOUNDS)
        fitted = await fit(request, tokens, limits)
        sent = request.upstream_body(prompt=fitted.prompt, max_tokens=1, stream=False)
        served = post(shared_server, "chat/completions", sent)["usage"]["prompt_tokens"]
        assert served == fitted.prompt_tokens <= 700
        cut += fitted.dropped_messages > 0
    assert cut >= 6


async def test_counts_with_the_servers_own_template_flags(tiny_model: Path, tmp_path: Path) -> None:
    flags = ["--chat-template-args", '{"enable_thinking": false}']
    tokens = TokenCounter()
    await tokens.start(tiny_model, flags)
    with bare_server(tiny_model, tmp_path, *flags) as server:
        for kwargs in ({}, {"enable_thinking": True}):
            body = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": kwargs}
            request = parse_chat(json.dumps(body).encode(), BOUNDS)
            assert serve(server, request)["usage"]["prompt_tokens"] == await tokens.count(request.prompt)
    await tokens.stop()


HOT = {"temperature": 1.0}
USER = {"role": "user", "content": "hi"}

#: Each kills or breaks the server as it stands (samplers run outside any try).
MENDED: dict[str, dict[str, Any]] = {
    "top_k is the vocabulary": HOT | {"top_k": 1024},
    "top_k beyond the vocabulary": HOT | {"top_k": 10**9},
    "xtc threshold above one half": HOT | {"xtc_probability": 1.0, "xtc_threshold": 1.0},
    "xtc integers": HOT | {"xtc_probability": 1, "xtc_threshold": 0},
    "one stop string": {"stop": "x"},
    "empty stop strings": {"stop": ["", "x"]},
    "lookback beyond an array index": {"repetition_penalty": 1.1, "repetition_context_size": 2**40},
    "negative seed": {"seed": -5},
    "random seed": {"seed": -1},
    "largest seed": {"seed": 2**64 - 1},
    "nulls": {
        "temperature": None,
        "top_p": None,
        "stop": None,
        "seed": None,
        "logit_bias": None,
        "tools": None,
    },
    "stream options": {"stream_options": {}},
    "empty tool arguments": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": ""}}],
            },
            {"role": "tool", "content": "x"},
        ]
    },
    "coldest": {"temperature": 1e-300},
    "narrowest": HOT | {"top_p": 1e-300, "min_p": 1e-300},
    "all that narrows": HOT
    | {
        "top_k": 1,
        "top_p": 1e-6,
        "min_p": 1,
        "xtc_probability": 1,
        "xtc_threshold": 0,
        "repetition_penalty": 100,
    },
    "hottest": {"temperature": 100, "presence_penalty": -100, "frequency_penalty": -100},
    "every token unwanted": {"logit_bias": {str(token): -100 for token in range(1024)}},
    "last token wanted": HOT | {"logit_bias": {"1023": 100}},
    "most logprobs": {"top_logprobs": 11},
    "markers as stops": {"stop": ["<think>", "</think>", "<tool_call>", "<|im_end|>"]},
    "template arguments": {"chat_template_kwargs": {"enable_thinking": "x", "reasoning_effort": 5}},
}

REFUSED: dict[str, dict[str, Any]] = {
    "stop is a number": {"stop": 5},
    "stop has a number": {"stop": [1]},
    "bias outside the vocabulary": {"logit_bias": {"1024": 1}},
    "bias far outside": {"logit_bias": {"99999999": 1}},
    "tokenizer argument": {"chat_template_kwargs": {"tokenize": False}},
    "another tokenizer argument": {"chat_template_kwargs": {"return_tensors": "np"}},
    "a template of the client": {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
    "adapters": {"adapters": "/tmp"},
    "draft model": {"draft_model": "x/y"},
    "image by URL": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]}
        ]
    },
}


@pytest.mark.parametrize("name", MENDED)
async def test_what_is_mended_leaves_the_server_alive(shared_server: Running, name: str) -> None:
    request = parse_chat(json.dumps({"messages": [USER]} | MENDED[name]).encode(), BOUNDS)
    assert serve(shared_server, request, max_tokens=4)["usage"]["completion_tokens"] >= 1
    assert shared_server.get("/health")[0] == 200
    plain = parse_chat(json.dumps({"messages": [USER]}).encode(), BOUNDS)
    assert serve(shared_server, plain)["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("name", REFUSED)
async def test_what_kills_and_cannot_be_mended_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(json.dumps({"messages": [USER]} | REFUSED[name]).encode(), BOUNDS)


async def test_the_server_does_die_of_what_is_mended(tiny_model: Path, tmp_path: Path) -> None:
    """One of the family, so that these tests tell when a new server no longer needs the mending."""
    with bare_server(tiny_model, tmp_path) as server:
        body = {"messages": [USER], "max_tokens": 4} | MENDED["top_k is the vocabulary"]
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            post(server, "chat/completions", json.dumps(body).encode())
        assert server.get("/health")[0] == 503
