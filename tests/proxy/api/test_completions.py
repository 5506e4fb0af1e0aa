"""The journey of a request, between stand-ins for the child and the tokenizer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from proxy.planning.preparation import Prepared
from proxy.request.completion import Bounds
from proxy.request.images import ImagePolicy
from proxy.stream.child_stream import Usage
from tests.support.api_stand import INFO, LIMITS, Stage
from tests.support.canaries import PROMPT

HELLO = {"messages": [{"role": "user", "content": PROMPT}]}


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [
        ("/v1/chat/completions", HELLO, "chatcmpl-"),
        ("/chat/completions", HELLO, "chatcmpl-"),
        ("/v1/chat/completions?api-version=1", HELLO, "chatcmpl-"),
        ("/v1/completions", {"prompt": "hello"}, "cmpl-"),
    ],
)
async def test_every_completions_path_reaches_the_relay(
    client: TestClient[web.Request, web.Application], stage: Stage, path: str, body: Any, prefix: str
) -> None:
    answer = await client.post(path, json={**body, "model": "openai/tiny"}, headers={"x-request-id": "mine"})
    assert answer.status == 200
    (job,) = stage.relayed
    assert job.answer.id.startswith(prefix)
    assert job.answer.model == "tiny"
    assert job.request_id == "mine"
    assert job.fitted.prompt_tokens == 7
    assert job.fitted.max_tokens == 16
    assert job.deadline == pytest.approx(job.arrived + 600)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_value"),
        (b"[]", 400, "invalid_value"),
        (b'{"messages": []}', 400, "invalid_value"),
        (b'{"messages": [{"role": "user", "content": "x"}], "model": "gpt-4"}', 404, "model_not_found"),
    ],
)
async def test_what_is_refused_never_reaches_the_relay(
    client: TestClient[web.Request, web.Application], stage: Stage, body: bytes, status: int, code: str
) -> None:
    answer = await client.post("/v1/chat/completions", data=body)
    assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
    assert not stage.relayed


async def test_a_prompt_over_the_limit_is_an_overflow(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    stage.tokens = 51
    answer = await client.post("/v1/chat/completions", json=HELLO)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("prompt is too long: 51 tokens > 50 maximum")


async def test_the_compaction_of_a_refused_conversation_may_be_longer(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    limits = replace(LIMITS, compaction_headroom=10)
    stage.prepared = Prepared(Path("/m"), INFO, limits, Bounds(vocab_size=100))
    stage.tokens = 55
    summarize = {"messages": [*HELLO["messages"], {"role": "user", "content": "summarize"}]}
    statuses = [
        (await client.post("/v1/chat/completions", json=body)).status
        for body in (HELLO, HELLO, summarize, HELLO)
    ]
    assert statuses == [400, 400, 200, 400]


async def test_remote_images_are_fetched_before_the_request_goes_on(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    policy = ImagePolicy(most=2, hosts=frozenset({"pics.example"}), obstacle=None)
    stage.prepared = Prepared(Path("/m"), INFO, LIMITS, Bounds(vocab_size=100, images=policy))
    part = {"type": "image_url", "image_url": {"url": "http://pics.example/a"}}
    content = [{"type": "text", "text": "what is this?"}, part, part]
    body = {"messages": [{"role": "user", "content": content}]}
    assert (await client.post("/v1/chat/completions", json=body)).status == 200
    (job,) = stage.relayed
    assert job.request.remote == ()
    assert "pics.example" not in str(job.fitted.prompt)
    assert [found for found in ("base64,0", "base64,1") if found in str(job.fitted.prompt)] == [
        "base64,0",
        "base64,1",
    ]


async def test_explain_runs_nothing(client: TestClient[web.Request, web.Application], stage: Stage) -> None:
    stage.tokens = 51
    answer = await client.post("/mlxguard/api/explain", json=HELLO)
    document = await answer.json()
    assert (answer.status, document["verdict"], document["prompt_tokens"]) == (200, "refused", 51)
    assert not stage.relayed
    assert (await client.post("/mlxguard/api/explain", data=b"{}")).status == 400


async def test_our_counts_are_compared_with_the_servers(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    stage.usage = Usage(prompt_tokens=9, completion_tokens=1, cached_tokens=0)
    await client.post("/v1/chat/completions", json=HELLO)
    assert stage.checked == [(7, 9)]


async def test_nothing_new_is_accepted_while_stopping(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    stage.stopping.set()
    answer = await client.post("/v1/chat/completions", json=HELLO)
    assert answer.status == 503
    assert "Retry-After" in answer.headers
    assert not stage.relayed


async def test_bodies_that_exceed_the_budget_together_get_503(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    for _ in range(3):  # what one held is given back
        answer = await client.post("/v1/chat/completions", data=io.BytesIO(b" " * 1_600_000))
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "503")
        assert (await client.post("/v1/chat/completions", json=HELLO)).status == 200
