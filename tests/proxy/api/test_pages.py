"""What the GET endpoints say about the gateway, its child and its model."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web
from aiohttp.test_utils import TestClient

from supervisor.lifecycle.state_machine import State
from tests.proxy.api.test_status import CRASHED
from tests.support.api_stand import Stage


async def test_readiness_says_why_not(client: TestClient[web.Request, web.Application]) -> None:
    assert (await client.get("/livez")).status == 200
    for path in ("/readyz", "/health"):
        answer = await client.get(path)
        assert answer.status == 503
        assert await answer.json() == {
            "status": "unavailable",
            "state": "starting",
            "reason": "The GPU ran out of memory (Metal).",
        }


async def test_a_child_that_serves_is_not_enough_while_prompts_cannot_be_counted(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    stage.child = replace(CRASHED, state=State.READY)
    assert (await client.get("/readyz")).status == 200
    stage.prepared, stage.failure = None, "tokenizer.json is damaged"
    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["reason"]) == (503, "tokenizer.json is damaged")


async def test_the_model_is_listed_with_its_limit_under_every_name_that_agents_read(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    (entry,) = (await (await client.get("/v1/models")).json())["data"]
    assert entry["id"] == "tiny"
    assert {entry[name] for name in ("context_length", "max_model_len", "context_window")} == {50}
    assert entry["meta"] == {"n_ctx": 50, "n_ctx_train": 4096}
    assert await (await client.get("/v1/models/openai/tiny")).json() == entry
    assert (await client.get("/v1/models/gpt-4")).status == 404
    stage.prepared = None
    (entry,) = (await (await client.get("/v1/models")).json())["data"]
    assert "context_length" not in entry, "not known yet"


async def test_paths_of_other_servers_are_not_found_as_json(
    client: TestClient[web.Request, web.Application],
) -> None:
    for path in ("/api/tags", "/api/v1/models", "/props"):
        answer = await client.get(path)
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
