"""What the simulator predicts and what the real server does, in sessions with tools and side requests."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from proxy.prompt.counter import TokenCounter
from proxy.request.completion import Bounds, CompletionRequest, Prompt, TextPrompt
from proxy.request.parse import parse_chat
from tests.conftest import MakeTiny
from tests.real.processes import Running, bare_server

pytestmark = pytest.mark.real

AGENT = {"role": "system", "content": "You are an agent that looks at files. " * 8}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "looks", "parameters": {"type": "object", "properties": {}}},
}


def served(server: Running, request: CompletionRequest) -> dict[str, Any]:
    body = request.upstream_body(prompt=request.prompt, max_tokens=5, stream=False)
    return complete(server, "chat/completions", body)


def complete(server: Running, path: str, body: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.base_url}/{path}", body, timeout=60) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


async def follow(tokens: TokenCounter, id: str, prompt: Prompt, *, generated: int) -> None:
    await tokens.ask_predictor("predict", prompt, of=id, batched=True)
    await tokens.ask_predictor("asked", of=id)
    await tokens.ask_predictor("ended", of=id, generated=generated, cached=None, complete=True)


async def avoid_exact_hit(tokens: TokenCounter, server: Running) -> int:
    """A chat that is asked without its thought and then with it: how many requests were sent between the two.

    That kills a server whose caches cannot be cut back: without the thought, the template closes one behind
    what opens the answer, and the server keeps what comes before it.
    """
    without, wanted = (thinking_chat(enabled) for enabled in (False, True))
    await follow(
        tokens, "without", without.prompt, generated=served(server, without)["usage"]["completion_tokens"]
    )
    await tokens.ask_predictor("predict", wanted.prompt, of="with", batched=True)
    sent = 0
    while (way := await tokens.ask_predictor("avoid_exact_hit", of="with")) is not None:
        parsed = (
            parse_chat(json.dumps(way["body"]).encode(), Bounds(vocab_size=1024)) if way["abandon"] else None
        )
        prompt = parsed.prompt if parsed else TextPrompt(way["body"]["prompt"])
        await tokens.ask_predictor("predict", prompt, of=f"own {sent}", batched=True)
        await tokens.ask_predictor("asked", of=f"own {sent}")
        push(server, "chat/completions" if parsed else "completions", way)
        await tokens.ask_predictor("read", of=f"own {sent}", cached=None)
        complete = not way["abandon"]
        await tokens.ask_predictor("ended", of=f"own {sent}", generated=1, cached=None, complete=complete)
        sent += 1
    served(server, wanted)
    return sent


def push(server: Running, path: str, way: dict[str, Any]) -> None:
    body = json.dumps({**way["body"], "stream": way["abandon"]}).encode()
    with urllib.request.urlopen(f"{server.base_url}/{path}", body, timeout=60) as answer:
        if not way["abandon"]:
            answer.read()


def thinking_chat(enabled: bool) -> CompletionRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    arguments = {"chat_template_kwargs": {"enable_thinking": enabled}}
    return parse_chat(json.dumps({**body, **arguments}).encode(), Bounds(vocab_size=1024))


def turn(draw: random.Random, said: str) -> list[dict[str, Any]]:
    """What comes after an answer: the next question, or a call and its result."""
    text = " ".join(draw.choices(["this", "file", "is", "not", "there"], k=draw.randint(1, 30)))
    if draw.random() < 0.5:
        return [{"role": "assistant", "content": said}, {"role": "user", "content": text}]
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": text, "tool_call_id": "c"},
    ]


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_next"])
async def test_the_cached_tokens_of_every_request_are_predicted(
    architecture: str, make_tiny: MakeTiny, tmp_path: Path
) -> None:
    draw = random.Random(5)
    model = make_tiny() if architecture == "qwen3" else make_tiny(architecture=architecture)
    rules = {"sequences": 6, "trimmable_below": None if architecture == "qwen3" else 0}
    tokens = TokenCounter()
    await tokens.start(model, [])
    predicted, seen = [], []
    with bare_server(model, tmp_path, "--prompt-cache-size", "6") as server:
        await tokens.ask_predictor("reset", rules=rules, max_cost=10**8)
        # The simulator has the supervisor's canary, the server bare_server's first words: each needs both.
        await follow(tokens, "first words", TextPrompt("hello"), generated=1)
        complete(server, "completions", b'{"prompt": "a", "max_tokens": 1}')
        sessions = [[AGENT, {"role": "user", "content": name}] for name in ("first", "second")]
        for number in range(24):
            messages = draw.choice(sessions)
            side = draw.random() < 0.2
            asked = [{"role": "user", "content": f"a title for {number}"}] if side else messages
            body = {"messages": asked, **({} if side else {"tools": [TOOL]}), "temperature": 0}
            request = parse_chat(json.dumps(body).encode(), Bounds(vocab_size=1024))
            id = str(number)
            await tokens.ask_predictor("predict", request.prompt, of=id, batched=True)
            told = await tokens.ask_predictor("asked", of=id)
            answer = served(server, request)
            usage = answer["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            predicted.append(told["cached"] if told else None)
            seen.append(cached)
            fields = {"generated": usage["completion_tokens"], "cached": cached}
            await tokens.ask_predictor("ended", of=id, complete=True, **fields)
            if not side:
                messages += turn(draw, answer["choices"][0]["message"].get("content") or "")
        assert (await avoid_exact_hit(tokens, server) > 0) == (architecture == "qwen3_next")
    await tokens.stop()
    assert sum(seen) > 1000, "nothing came from the cache, so nothing is proven"
    # The tokens of an answer are known only after a later prompt: until then too little is predicted.
    pairs = list(zip(predicted, seen, strict=True))
    assert [pair for pair in pairs if not pair[0] <= pair[1]] == []
    assert sum(cached - told <= 6 for told, cached in pairs) >= 20
