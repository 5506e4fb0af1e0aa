"""A relay between a scripted child and real HTTP clients: what the relay's tests stand on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.cache.search_stalls import FollowedJob, SearchStalls
from proxy.config.settings import QueueSettings
from proxy.dialects.chat import ChatForm
from proxy.dialects.form import AnswerForm
from proxy.errors import GatewayError
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.job import Job
from proxy.planning.learned_state import LearnedFile
from proxy.prompt.fit import Fitted
from proxy.prompt.output_check import OutputCheck
from proxy.relay.client import response_headers
from proxy.relay.disconnects import Disconnects
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.stream.answer import Answer
from proxy.upstream.client import Upstream
from supervisor.lifecycle.causes import Cause
from tests.support.fake_child import FakeChild, FakeSupervisor

PROMPT = ChatPrompt(messages=({"role": "user", "content": "hi"},), tools=None, template_kwargs={})
KEEP_QUIET = QueueSettings(headers_after_s=60, keepalive_s=60)


class NullSearchStalls(SearchStalls):
    """Predicts nothing, and records the steps that it is told of."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @contextmanager
    def follow(self, job: Job) -> Iterator[FollowedJob]:
        try:
            yield _NullJob(self, job)
        finally:
            self.steps.append(f"ended {job.outcome}")


class _NullJob(FollowedJob):
    stalls: NullSearchStalls

    async def predict(self) -> None:
        self.stalls.steps.append("predict")

    async def ask_again(self) -> None:
        self.stalls.steps.append("ask again")

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        self.stalls.steps.append("asked")
        try:
            yield
        finally:
            self.stalls.steps.append("attempt ended")

    def answer_began(self) -> None:
        self.stalls.steps.append("answer began")

    def prompt_read(self) -> None:
        self.stalls.steps.append("prompt read")


@dataclass
class Stand:
    """A relay between a fake child and real HTTP clients."""

    child: FakeChild
    supervisor: FakeSupervisor
    upstream: Upstream
    gate: Gate = field(
        default_factory=lambda: Gate(Budget(max_running=8), max_waiting=8, on_sample=lambda _: None)
    )
    options: QueueSettings = KEEP_QUIET
    max_wait_s: float = 60.0
    jobs: list[Job] = field(default_factory=list)
    quarantine: Quarantine = field(init=False)
    registry: Registry = field(default_factory=Registry)
    disconnects: Disconnects = field(
        default_factory=lambda: Disconnects(batched=lambda: True, on_dropped=lambda *_: None)
    )
    search_stalls: NullSearchStalls = field(default_factory=NullSearchStalls)
    output_check: Callable[[], OutputCheck] | None = None
    server: TestServer | None = None
    session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(lambda: self.jobs, LearnedFile(), internal_requests=lambda: 0)

    def crash(self, cause: Cause = Cause.SEGFAULT) -> None:
        """The child died, and the requests in flight are blamed."""
        self.quarantine.attribute(self.supervisor.down(cause))

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/{kind}", self._handle)
        self.server = TestServer(app)
        await self.server.start_server(shutdown_timeout=0.1)
        self.session = aiohttp.ClientSession(self.server.make_url("/"))

    async def stop(self) -> None:
        assert self.session
        assert self.server
        await self.session.close()
        await self.server.close()
        await self.upstream.stop()

    async def _handle(self, http_request: web.Request) -> web.StreamResponse:
        parts = (self.supervisor, self.gate, self.upstream, self.options, self.quarantine)
        relay = Relay(*parts, disconnects=self.disconnects, search_stalls=self.search_stalls)
        job = self.job(await http_request.json(), is_chat=http_request.match_info["kind"] == "chat")
        if self.output_check is not None:
            job.output_check = self.output_check()
        self.jobs.append(job)
        try:
            with self.registry.track(job):
                return await relay.serve(http_request, job)
        except GatewayError as error:
            headers = {**error.headers(10), **response_headers(job)}
            return web.json_response(error.body(), status=error.status, headers=headers)

    def form(self, answer: Answer, request: CompletionRequest) -> AnswerForm:
        """How answers are written; tests of other protocols put another in its place."""
        return ChatForm(answer, include_usage=request.include_usage)

    def job(self, wish: dict[str, Any], *, is_chat: bool) -> Job:
        now = asyncio.get_running_loop().time()
        number = len(self.jobs)
        answer = Answer.new(unique=str(number), created=42, model="served", is_chat=is_chat)
        request = CompletionRequest(prompt=PROMPT, **wish)
        return Job(
            request_id=f"req-{number}",
            request=request,
            fitted=Fitted(
                PROMPT, prompt_tokens=7, max_tokens=16, clamped=False, dropped_messages=0, dropped_tokens=0
            ),
            answer=answer,
            form=self.form(answer, request),
            client="anonymous",
            arrived=now,
            deadline=now + self.max_wait_s,
        )

    def ask(self, kind: str = "chat", **wish: Any) -> asyncio.Task[aiohttp.ClientResponse]:
        """A client's request; the task ends with the headers of its answer."""

        async def headers() -> aiohttp.ClientResponse:
            assert self.session
            return await self.session.post(kind, json=wish)

        return asyncio.create_task(headers())


@asynccontextmanager
async def a_stand() -> AsyncIterator[Stand]:
    """Fails when anything is left behind: a slot at the gate, a task."""
    before = _others()
    async with FakeChild() as child:
        stand = Stand(child, FakeSupervisor(), Upstream())
        await stand.start()
        stand.supervisor.up(child)
        yield stand
        await stand.stop()
    await eventually(lambda: stand.gate.snapshot().running == 0, "a slot was left behind")
    assert stand.gate.snapshot().waiting == 0
    await eventually(lambda: _others() <= before, "a task was left behind")


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def eventually(condition: Callable[[], bool], otherwise: str = "never happened") -> None:
    """Lets the loop turn until it is so."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail(otherwise)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def text_of(stream: bytes) -> str:
    choices = [event["choices"][0] for event in events_of(stream) if event.get("choices")]
    return "".join(choice["delta"].get("content", "") for choice in choices)
