"""A relay between a scripted child and real HTTP clients: what the relay's tests stand on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.cache.search_stalls import BLIND, Blind
from proxy.errors import GuardError
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.job import Job
from proxy.prompt.fit import Fitted
from proxy.relay.disconnects import Disconnects
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay, RelayOptions
from proxy.relay.response_headers import response_headers
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.stream.answer import Answer
from proxy.upstream.client import Upstream
from supervisor.lifecycle.causes import Cause
from tests.support.fake_child import FakeChild, FakeSupervisor

PROMPT = ChatPrompt(messages=({"role": "user", "content": "hi"},), tools=None, template_kwargs={})
KEEP_QUIET = RelayOptions(hold_grace_s=60, keepalive_s=60)


@dataclass
class Stand:
    """A relay between a fake child and real HTTP clients."""

    child: FakeChild
    supervisor: FakeSupervisor
    upstream: Upstream
    gate: Gate = field(default_factory=lambda: Gate(Budget(max_running=8), max_waiting=8))
    options: RelayOptions = KEEP_QUIET
    max_wait_s: float = 60.0
    jobs: list[Job] = field(default_factory=list)
    inquest: Quarantine = field(init=False)
    registry: Registry = field(default_factory=Registry)
    leavings: Disconnects = field(default_factory=Disconnects)
    foresight: Blind = BLIND
    server: TestServer | None = None
    session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.inquest = Quarantine(lambda: self.jobs, None)

    def crash(self, cause: Cause = Cause.SEGFAULT) -> None:
        """The child is dead, and somebody is to blame."""
        self.inquest.hold(self.supervisor.down(cause))

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
        parts = (self.supervisor, self.gate, self.upstream, self.options, self.inquest)
        relay = Relay(*parts, leavings=self.leavings, foresight=self.foresight)
        job = self.job(await http_request.json(), is_chat=http_request.match_info["kind"] == "chat")
        self.jobs.append(job)
        try:
            with self.registry.track(job):
                return await relay.serve(http_request, job)
        except GuardError as error:
            headers = {**error.headers(10), **response_headers(job)}
            return web.json_response(error.body(), status=error.status, headers=headers)

    def job(self, wish: dict[str, Any], *, is_chat: bool) -> Job:
        now = asyncio.get_running_loop().time()
        number = len(self.jobs)
        answer = Answer.new(unique=str(number), created=42, model="served", is_chat=is_chat)
        return Job(
            request_id=f"req-{number}",
            request=CompletionRequest(prompt=PROMPT, **wish),
            fitted=Fitted(
                PROMPT, prompt_tokens=7, max_tokens=16, clamped=False, dropped_messages=0, dropped_tokens=0
            ),
            answer=answer,
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
    """Fails when anything is left behind: a place at the gate, a task."""
    before = _others()
    async with FakeChild() as child:
        stand = Stand(child, FakeSupervisor(), Upstream())
        await stand.start()
        stand.supervisor.up(child)
        yield stand
        await stand.stop()
    await eventually(lambda: stand.gate.snapshot().running == 0, "a place was left behind")
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
