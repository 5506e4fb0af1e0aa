from __future__ import annotations

import json
import re
from typing import Any

import orjson

from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.parse import parse_chat, parse_text

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


def test_the_child_is_sent_its_own_model_and_nothing_unknown() -> None:
    request = chat(
        model="gpt", frobnicate=1, chat_template="x", role_mapping={}, num_draft_tokens=3, store=True
    )
    assert sent(request, stream=False) == {
        "model": "default_model",
        "messages": [USER],
        "max_tokens": 7,
        "stream": False,
    }
    assert request.dropped == ("chat_template", "frobnicate", "num_draft_tokens", "store")


def test_streams_always_ask_the_child_for_usage() -> None:
    assert sent(chat())["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(chat(stream=True), stream=False)


def test_the_prompt_fields_reach_the_child() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = sent(chat(tools=tools, chat_template_kwargs={"enable_thinking": False, "thinking": None}))
    assert body["tools"] == tools
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_vocabulary_may_become_known_after_parsing() -> None:
    request = parse_chat(orjson.dumps({"messages": [USER], "top_k": 5000}), Bounds())
    assert request.sampling == {"top_k": 5000}
    assert request.bounded(1024).sampling == {}


def test_the_fingerprint_covers_prompt_and_sampling() -> None:
    first = chat(temperature=1, top_p=0.5, max_tokens=5, stream=True, user="ann")
    same = parse_chat(
        json.dumps({"top_p": 0.5, "temperature": 1.0, "messages": [USER]}, indent=1).encode(), BOUNDS
    )
    assert first.fingerprint() == same.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{16}", first.fingerprint())
    others = (chat(temperature=1), chat(temperature=1, top_p=0.6), text(temperature=1, top_p=0.5))
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_a_session_is_identified_by_its_first_user_message() -> None:
    system, hello = {"role": "system", "content": "now it is noon"}, {"role": "user", "content": "hello"}
    grown = [{**system, "content": "now it is one"}, hello, {"role": "assistant", "content": "hi"}, hello]

    def session(messages: list[dict[str, str]]) -> str:
        return parse_chat(orjson.dumps({"messages": messages}), Bounds()).session()

    assert session([system, hello]) == session(grown)
    assert session([system, hello]) != session([system, {**hello, "content": "hey"}])
    assert session([system]) != session([hello])
