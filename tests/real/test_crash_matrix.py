"""Every way to die x every phase, on the real server, with eight clients in flight, half of them streaming.

The promise: each client gets a complete answer or exactly the contract's error, and the next request works.
Where its client has seen no content, a request is replayed, so here nearly all answers are complete.

The phase is confirmed from the child's own log before the fault is brought about. Faults are real but for
Metal's abort (tests/real/faults_of_children.py).
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.conftest import MakeTiny
from tests.real import faults_of_children
from tests.real.faults_of_children import FAULTS
from tests.real.processes import Gateway, guard
from tests.support.canaries import PROMPT

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

CLIENTS = 8
#: Prompt tokens per prefill step: small, so that a prefill of a few thousand tokens takes a while.
STEP = 64


@dataclass(frozen=True, slots=True)
class Proxy:
    """A mlxguard-proxy process, its child and its log."""

    guard: Gateway
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.guard.url

    async def status(self) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/mlxguard/api/status") as answer:
            document: dict[str, Any] = await answer.json()
            return document

    async def child(self) -> dict[str, Any]:
        child: dict[str, Any] = (await self.status())["child"]
        return child

    async def until_child(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll the child's status until it is so; what it then is."""
        async with asyncio.timeout(30):
            while not holds(child := await self.child()):
                assert self.guard.alive()
                await asyncio.sleep(0.01)
        return child

    async def until_waiting(self) -> None:
        """Until somebody is in the queue; on a busy machine some may have ended before all have come."""
        async with asyncio.timeout(30):
            while not (await self.status())["queue"]["waiting"]:
                assert self.guard.alive()
                await asyncio.sleep(0.01)

    async def until_logged(self, text: str, since: int) -> None:
        """Until the child has said `text` after byte `since` of the proxy's log."""
        async with asyncio.timeout(30):
            while text.encode() not in self.log_since(since):
                assert self.guard.alive()
                await asyncio.sleep(0.01)

    def mark(self) -> int:
        return self.guard.output.stat().st_size

    def log_since(self, mark: int) -> bytes:
        with self.guard.output.open("rb") as log:
            log.seek(mark)
            return log.read()


@pytest.fixture(scope="module")
def guarded(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One proxy for all cases; its child is a new one after each."""
    settings = {
        "upstream.decode_concurrency": 4,
        "upstream.prompt_concurrency": 4,
        "upstream.prefill_step_size": STEP,
        "supervisor.max_restarts": 1000,
        "supervisor.backoff_base_s": 0.1,
        "supervisor.start_timeout_s": 15,
        "supervisor.stall_s": 2,
        "supervisor.canary_timeout_s": 1,
        "queue.keepalive_s": 0.5,
        "queue.headers_after_s": 0.2,
        "log.level": "debug",
    }
    with pytest.MonkeyPatch.context() as environ:
        for name, value in faults_of_children.environ().items():
            environ.setenv(name, value)
        options = [f"--set={key}={value}" for key, value in settings.items()]
        # 4 MB more for every 256 tokens of one sequence: growing takes new memory, as it does in earnest.
        model = make_tiny(kv_bytes_per_token=16384)
        with guard(model, tmp_path_factory.mktemp("matrix"), *options) as running:
            yield running


@pytest.fixture
async def proxy(guarded: Gateway) -> AsyncIterator[Proxy]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        proxy = Proxy(guarded, http)
        await proxy.until_child(lambda child: child["state"] == "ready")
        yield proxy


# --- clients -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """What one client got: `complete`, or `refused` by the contract; anything else is an assertion."""

    complete: bool
    content: bool


def body_of(number: int, *, words: int, max_tokens: int, stream: bool) -> dict[str, Any]:
    text = " ".join(f"word{number}-{index}" for index in range(words))
    return {
        "messages": [{"role": "user", "content": f"client {number}: {PROMPT} {text}"}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    }


async def ask(proxy: Proxy, body: dict[str, Any], first: asyncio.Event) -> Heard:
    """One client. `first` is set when it has seen content."""
    async with proxy.http.post(f"{proxy.url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            assert_unavailable(answer.status, answer.headers, await answer.json())
            return Heard(complete=False, content=False)
        if body["stream"]:
            return await hear_stream(answer, first)
        whole = await answer.json()
        first.set()
        assert whole["choices"][0]["finish_reason"] in ("length", "stop")
        assert whole["usage"]["completion_tokens"] >= 1
        return Heard(complete=True, content=True)


async def hear_stream(answer: aiohttp.ClientResponse, first: asyncio.Event) -> Heard:
    finish, content, error, done, ids = None, False, None, False, set()
    async for line in answer.content:
        if not line.startswith(b"data: "):
            assert line == b"\n" or line.startswith(b":")
            continue
        assert not done, "something after [DONE]"
        if line == b"data: [DONE]\n":
            done = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            error = event["error"]
            continue
        ids.add(event["id"])
        for choice in event["choices"]:
            content = content or bool(choice["delta"].get("content"))
            finish = choice["finish_reason"] or finish
        if content:
            first.set()
    assert done, "a stream that ends without [DONE] looks like a normal end to most clients"
    assert len(ids) <= 1, "one answer keeps one id over replays"
    assert (finish is None) == (error is not None)
    if error is not None:
        assert (error["type"], error["code"]) == ("server_error", "503")
    return Heard(complete=error is None, content=content)


def assert_unavailable(status: int, headers: Mapping[str, str], document: dict[str, Any]) -> None:
    assert status == 503
    assert 10 <= int(headers["Retry-After"]) <= 30
    assert document["error"]["code"] == "503"
    assert document["error"]["type"] == "server_error"


#: phase -> (words per prompt, max_tokens, what the child's log shows when it is reached)
PHASES: dict[str, tuple[int, int, str]] = {
    "loading": (5, 24, ""),
    "queued": (5, 300, "Prompt processing progress"),
    "prefill": (120, 8, f"Prompt processing progress: {2 * STEP}/"),
    "decode": (5, 300, "Prompt processing progress"),
    "idle": (5, 24, ""),
}


async def reach(proxy: Proxy, phase: str, mark: int, seen: asyncio.Event) -> None:
    """Wait until the child is in `phase`, by its own log."""
    await proxy.until_logged(PHASES[phase][2], mark)
    if phase == "decode":
        await asyncio.wait_for(seen.wait(), 30)
    if phase == "queued":
        await proxy.until_waiting()


async def loading(proxy: Proxy) -> dict[str, Any]:
    """A planned restart, and the child that is loading after it."""
    before = (await proxy.child())["generation"]
    proxy.guard.process.send_signal(signal.SIGHUP)
    return await proxy.until_child(lambda child: child["generation"] > before and child["pid"])


async def outgrow(proxy: Proxy, generation: int) -> None:
    """A child that gets no more memory may do with what it had freed: ask for ever more, until it dies."""
    words = 100
    while (await proxy.child())["generation"] == generation:
        words *= 2
        body = body_of(0, words=words, max_tokens=2, stream=True)
        assert (await ask(proxy, body, asyncio.Event())).complete


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_every_client_gets_a_whole_answer_or_the_contract(proxy: Proxy, fault: str, phase: str) -> None:
    words, max_tokens, _ = PHASES[phase]
    bodies = [body_of(n, words=words, max_tokens=max_tokens, stream=n % 2 == 0) for n in range(CLIENTS)]
    seen = [asyncio.Event() for _ in bodies]
    child = await (loading(proxy) if phase == "loading" else proxy.child())
    mark = proxy.mark()
    if phase in ("loading", "idle"):
        await FAULTS[fault](proxy.http, child)
    clients = [asyncio.create_task(ask(proxy, *each)) for each in zip(bodies, seen, strict=True)]
    if phase not in ("loading", "idle"):
        await reach(proxy, phase, mark, seen[0])
        await FAULTS[fault](proxy.http, child)
    for one in await asyncio.wait_for(asyncio.gather(*clients), 60):
        assert one.complete or one.content, "no content was sent: it should have been replayed"
    if fault == "allocation":
        await outgrow(proxy, child["generation"])
    assert (await ask(proxy, bodies[0], asyncio.Event())).complete
    assert (await proxy.child())["generation"] == child["generation"] + 1, "one death, one restart"
