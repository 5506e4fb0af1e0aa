"""The endpoints of the two other protocols: one journey, and each client's own words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from proxy.request.completion import ChatPrompt
from tests.support.api_stand import Stage
from tests.support.canaries import PROMPT

MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 9}
RESPONSE: dict[str, Any] = {"input": PROMPT}

Client = TestClient[web.Request, web.Application]


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [("/v1/messages?beta=true", MESSAGES, "msg_"), ("/v1/responses", RESPONSE, "resp_")],
)
async def test_both_reach_the_relay(client: Client, stage: Stage, path: str, body: Any, prefix: str) -> None:
    answer = await client.post(
        path, json={**body, "model": "tiny"}, headers={"anthropic-version": "2023-06-01"}
    )
    assert answer.status == 200
    (job,) = stage.relayed
    assert job.answer.id.startswith(prefix)
    assert job.fitted.max_tokens == body.get("max_tokens", 16)
    assert isinstance(job.request.prompt, ChatPrompt)
    assert job.request.prompt.messages == ({"role": "user", "content": PROMPT},)
    assert prefix.encode() in job.form.opening()


async def test_an_overflow_is_told_as_each_client_understands_it(client: Client, stage: Stage) -> None:
    stage.tokens = 51
    answer = await client.post("/v1/messages", json={**MESSAGES, "stream": True})
    error = (await answer.json())["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("prompt is too long: 51 tokens > 50 maximum")

    answer = await client.post("/v1/responses", json={**RESPONSE, "stream": True})
    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")


async def test_counting_is_exact_and_waits_for_nothing(client: Client, stage: Stage) -> None:
    bodies = [{"messages": []}, {"messages": "foo"}, {"messages": [], "tools": [{"name": "a"}]}, MESSAGES]
    path = "/v1/messages/count_tokens?beta=true"
    answers = await asyncio.gather(*(client.post(path, json=body) for body in bodies * 7))
    assert [await answer.json() for answer in answers] == [{"input_tokens": 7}] * 28
    assert not stage.relayed


async def test_counting_knows_the_models_too(client: Client) -> None:
    answer = await client.post("/v1/messages/count_tokens", json={"messages": [], "model": "claude-99"})
    assert (answer.status, (await answer.json())["error"]["type"]) == (404, "not_found_error")


async def test_nothing_new_is_accepted_while_stopping(client: Client, stage: Stage) -> None:
    stage.stopping.set()
    for path, body in (("/v1/messages", MESSAGES), ("/v1/responses", RESPONSE)):
        answer = await client.post(path, json=body)
        assert answer.status == 503
        assert 10 <= int(answer.headers["Retry-After"]) <= 30


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/messages", 405), ("/v1/messages/x", 404), ("/v1/messages/count_tokens", 405)]
)
async def test_the_edge_speaks_messages_below_its_path(client: Client, path: str, status: int) -> None:
    answer = await client.get(path)
    assert answer.status == status
    assert (await answer.json())["type"] == "error"


async def test_a_compaction_gets_the_tools_of_its_conversation(client: Client, stage: Stage) -> None:
    tools = [{"type": "function", "name": "ls"}]
    compacting = [{"role": "user", "content": "CONTEXT CHECKPOINT COMPACTION"}]
    for body in ({**RESPONSE, "tools": tools}, {"input": compacting, "tools": []}):
        await client.post("/v1/responses", json={**body, "prompt_cache_key": "thread"})
    prompts = [job.request.prompt for job in stage.relayed]
    assert all(isinstance(prompt, ChatPrompt) and prompt.tools for prompt in prompts)


async def test_what_is_asked_at_a_start(client: Client) -> None:
    assert (await client.head("/api/hello")).status == 200
    listed = await (await client.get("/v1/models?limit=1000")).json()
    (model,) = listed["data"]
    assert (listed["object"], listed["has_more"], listed["first_id"]) == ("list", False, "tiny")
    assert (model["object"], model["type"], model["display_name"]) == ("model", "model", "tiny")
    assert model["max_input_tokens"] == model["context_window"] == 50
