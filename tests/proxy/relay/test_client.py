"""Clients that wait for a whole body, and the headers that tell a client about its request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.relay.client import response_headers
from proxy.request.mends import Mend
from tests.proxy.test_job import a_job
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


async def test_a_whole_answer_is_sent_before_anything_is_recorded_of_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = stand.search_stalls.steps
    write_eof = web.Response.write_eof

    async def recorded(self: web.Response, data: bytes = b"") -> None:
        await write_eof(self, data)
        steps.append("sent")

    monkeypatch.setattr(web.Response, "write_eof", recorded)
    asking = stand.ask()
    await (await stand.child.call()).answer(child_events.chat_stream("a", "b"))
    answer = await (await asking).json()
    assert answer["choices"][0]["message"]["content"] == "ab"
    assert steps.index("sent") + 1 == steps.index("ended ok")


async def test_a_whole_answer(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    assert call.json["stream"] is True, "so that its generation can be stopped"
    await call.answer(b": keepalive 3/7\n\n" + child_events.chat_stream("Hel", "lo"))

    response = await asking
    body = await response.json()

    assert response.status == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["prompt_tokens"] == 7
    assert response.headers["x-mlxguard-queue-ms"] == "0"


def test_plain_headers() -> None:
    job = a_job()
    job.queue_s, job.answer.attempts = 0.25, 2
    assert response_headers(job) == {
        "x-mlxguard-prompt-tokens": "7",
        "x-mlxguard-queue-ms": "250",
        "x-mlxguard-attempts": "2",
        "Via": "1.0 mlxguard-proxy",
    }


def test_headers_say_what_was_changed() -> None:
    headers = response_headers(a_job(clamped=True, dropped_messages=2, dropped_tokens=300))
    assert headers["x-mlxguard-max-tokens"] == "16"
    assert headers["x-mlxguard-truncated"] == "messages=2; tokens=300"


def test_headers_say_what_was_mended() -> None:
    job = a_job()
    job.request.mends.counts[Mend.NUL] += 2
    assert response_headers(job)["x-mlxguard-mended"] == "nul_replaced=2"
