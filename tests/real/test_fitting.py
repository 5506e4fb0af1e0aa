"""Short forms of `make bench WHAT=fitting`: other templates, and what the server has cached of a cut."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import Limits, fit
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest
from proxy.request.messages import Message
from proxy.request.parse import parse_chat
from tests.real.processes import Gateway, Running, bare_server
from tests.real.test_count import serve
from tests.support.conversations import conversation
from tests.support.tokenizer_zoo import KINDS

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", ["alternating-unigram", "plain-legacy"])
async def test_counts_with_other_tokenizers_and_templates(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    folder = kind.make(tiny_model, tmp_path / name)
    tokens = TokenCounter()
    assert (await tokens.start(folder, [])).incremental
    with bare_server(folder, tmp_path) as server:
        for seed in range(12):
            body = json.dumps(conversation(seed, kind.style)).encode()
            request = parse_chat(body, Bounds(vocab_size=1024))
            served = serve(server, request)["usage"]["prompt_tokens"]
            assert await tokens.count(request.prompt) == served, f"seed {seed}"
    await tokens.stop()


def spoken(turns: int) -> tuple[Message, ...]:
    return tuple(
        {"role": role, "content": f"{role} {turn}: " + "def f(x): return x\n" * 3}
        for turn in range(turns)
        for role in ("user", "assistant")
    )


async def test_consecutive_turns_of_a_cut_session_hit_the_servers_cache(
    shared_server: Running, tiny_model: Path
) -> None:
    tokens = TokenCounter()
    await tokens.start(tiny_model, [])
    limits = Limits(await tokens.count(ChatPrompt(spoken(12))), "truncate", 0, 16, None, 32768)
    cached, total, cuts, moved = 0, 0, 0, 0
    before: tuple[Message, ...] = ()
    for turn in range(13, 37):
        request = CompletionRequest(ChatPrompt(spoken(turn)[:-1]))
        fitted = await fit(request, tokens, limits)
        assert isinstance(fitted.prompt, ChatPrompt)
        moved += fitted.prompt.messages[: len(before)] != before
        before = fitted.prompt.messages
        usage = serve(shared_server, CompletionRequest(fitted.prompt))["usage"]
        assert usage["prompt_tokens"] == fitted.prompt_tokens <= limits.max_prompt_tokens  # type: ignore[operator]
        cached += usage["prompt_tokens_details"]["cached_tokens"]
        total += usage["prompt_tokens"]
        cuts += fitted.dropped_messages > 0
    await tokens.stop()
    assert cuts >= 23
    assert moved <= 6, "every fourth to sixth turn at the most, where twelve turns fit"
    assert cached > 0.6 * total


async def test_a_template_without_a_system_role_refuses_as_the_server_does(
    tiny_model: Path, tmp_path: Path
) -> None:
    kind = next(kind for kind in KINDS if kind.name == "no-system-metaspace")
    tokens = TokenCounter()
    await tokens.start(kind.make(tiny_model, tmp_path / kind.name), [])
    rules: Message = {"role": "system", "content": "rules"}
    ask: Message = {"role": "user", "content": "hi"}
    assert await tokens.count(ChatPrompt((ask,))) > 0
    for messages in ((rules, ask), (ask, ask)):
        with pytest.raises(InvalidRequest, match=r"not supported|must alternate"):
            await tokens.count(ChatPrompt(messages))
    await tokens.stop()


async def test_what_is_explained_is_what_is_served(shared_guard: Gateway) -> None:
    body = {"messages": list(spoken(3))[:-1], "max_tokens": 1, "model": "tiny"}
    explained = ask(shared_guard, "/mlxguard/api/explain", body)
    served = ask(shared_guard, "/v1/chat/completions", body)
    assert explained["verdict"] == "unchanged"
    assert explained["prompt_tokens"] == served["usage"]["prompt_tokens"]
    assert sum(entry["tokens"] for entry in explained["messages"]) == explained["prompt_tokens"]
    assert [entry["roles"] for entry in explained["messages"]] == [[m["role"]] for m in body["messages"]]  # type: ignore[attr-defined]
    assert explained["cost"]["admission"] == "now"
    assert explained["cost"]["alone"]["kv_bytes"] > 0
    assert {"ceiling", "max_prompt_tokens", "fits_alone"} <= {each["name"] for each in explained["limits"]}
    code, metrics = shared_guard.get("/metrics")
    assert code == 200
    assert "mlxguard_prompt_count_mismatches_total 0.0" in metrics


def ask(proxy: Gateway, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(proxy.url + path, json.dumps(body).encode(), timeout=60) as answer:
        read: dict[str, Any] = json.loads(answer.read())
    return read
