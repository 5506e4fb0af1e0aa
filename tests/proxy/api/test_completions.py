"""The journey, with what stands at its ends replaced: no child, no tokenizer, one model that is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.api.completions import Completions
from proxy.api.explain import Explainer
from proxy.api.metrics import Metrics
from proxy.api.pages import Pages
from proxy.api.router import routes
from proxy.api.status import Status
from proxy.app import admittance
from proxy.cache.client import CacheClient
from proxy.config.settings import Settings
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.http import middleware
from proxy.http import routes as routing
from proxy.http.body_budget import BodyAccount, BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.job import Job, Outcome
from proxy.planning.preparation import Preparation, Prepared
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter, TokenizerInfo
from proxy.prompt.fit import Limits
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay
from proxy.request.completion import Bounds, Prompt
from proxy.request.images import ImagePolicy, RemoteImage
from proxy.request.model_names import ModelNames
from proxy.stream.child_stream import StreamProgress, Usage
from supervisor.lifecycle.state_machine import State
from tests.proxy.api.test_status import CRASHED
from tests.support.canaries import PROMPT

INFO = TokenizerInfo(
    vocab_size=100, context_length=4096, has_chat_template=True, has_tool_calling=False, has_thinking=False
)
LIMITS = Limits(
    max_prompt_tokens=50,
    policy="error",
    keep_tokens=0,
    default_max_tokens=16,
    max_kv_size=None,
    context_length=4096,
)


class Stage:
    """Everything around the handlers, with one part per attribute that a test may change."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = Prepared(Path("/m"), INFO, LIMITS, Bounds(vocab_size=100))
        self.failure: str | None = None
        self.tokens = 7
        self.relayed: list[Job] = []
        self.child = CRASHED
        self.stopping = asyncio.Event()
        self.usage: Usage | None = None
        self.checked: list[tuple[int, int]] = []

    # Preparation
    async def ready(self, timeout_s: float) -> Prepared:
        assert self.prepared is not None
        return self.prepared

    # Tokens
    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        return self.tokens

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool
    ) -> tuple[int, None]:
        return self.tokens, None

    def tell(self, do: str, **fields: Any) -> None: ...

    def check(self, ours: int, served: int) -> None:
        self.checked.append((ours, served))

    # PictureFetch
    async def fetch(self, remotes: tuple[RemoteImage, ...], account: BodyAccount) -> list[str]:
        return [f"data:image/png;base64,{index}" for index, _ in enumerate(remotes)]

    # Relay
    async def serve(self, http_request: web.Request, job: Job) -> web.StreamResponse:
        self.relayed.append(job)
        job.outcome = Outcome.OK
        job.seen = StreamProgress(usage=self.usage)
        return web.json_response({"id": job.answer.id})


class FixedStatus:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.started_at = 1000

    def child(self) -> Any:
        return self._stage.child

    def document(self) -> dict[str, Any]:
        return {"child": str(self._stage.child.state)}


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    settings = Settings()
    metrics = Metrics(lambda: cast("Any", None))
    names = ModelNames("tiny", ())
    completions = Completions(
        server=settings.server,
        queue=settings.queue,
        names=names,
        preparation=cast("Preparation", stage),
        tokens=cast("TokenCounter", stage),
        mirroring=CacheClient(cast("TokenCounter", stage)),
        relay=cast("Relay", stage),
        registry=Registry(),
        explainer=Explainer(
            cast("TokenCounter", stage),
            Gate(Budget(max_running=1), max_waiting=1),
            lambda: None,
            settings.prompt,
            settings.memory,
        ),
        refusals=OverflowHistory(),
        metrics=metrics,
        bodies=BodyBudget(10**6),
        pictures=cast("ImageFetch", stage),
        stopping=stage.stopping,
    )
    status = cast("Status", FixedStatus(stage))
    pages = Pages(names=names, preparation=cast("Preparation", stage), status=status, metrics=metrics)
    app = web.Application(
        middlewares=[middleware.middleware(admittance(settings.server, {}), metrics.http_answer)]
    )
    app.on_response_prepare.append(middleware.sign)
    app.add_routes(routing.table(routes(completions, pages)))
    async with TestClient(TestServer(app)) as client:
        yield client


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


async def test_what_would_become_of_a_request(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
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


async def test_bodies_that_are_too_much_together_are_told_to_come_back(
    client: TestClient[web.Request, web.Application], stage: Stage
) -> None:
    for _ in range(3):  # what one held is given back
        answer = await client.post("/v1/chat/completions", data=b" " * 1_000_001)
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "503")
        assert (await client.post("/v1/chat/completions", json=HELLO)).status == 200


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
