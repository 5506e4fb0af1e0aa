"""The probe against small servers of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from supervisor.child.health import Health, Probe, ProbeAnswer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[Handler], Awaitable[Probe]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """`await ask(handler)`: a probe of a server that answers everything with `handler`."""
    async with aiohttp.ClientSession() as session:
        servers: list[TestServer] = []

        async def serve(handler: Handler) -> Probe:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            servers.append(TestServer(app))
            await servers[-1].start_server()
            assert servers[-1].port is not None
            return Probe(session, servers[-1].port)

        yield serve
        for server in servers:
            await server.close()


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def says(status: int, body: object) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handler


@pytest.mark.parametrize(
    ("handler", "health"),
    [
        (says(200, {"status": "ok"}), Health.OK),
        (says(404, {}), Health.OK),  # a server without /health is no dead one
        (says(503, {"status": "unavailable"}), Health.DEAD),
        (cut, Health.REFUSED),
        (never, Health.SILENT),
    ],
)
async def test_health(ask: Ask, handler: Handler, health: Health) -> None:
    assert await (await ask(handler)).health(timeout_s=0.1) is health


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (says(200, {"usage": {"completion_tokens": 1}}), ProbeAnswer.TOKEN),
        (says(200, {"usage": {"completion_tokens": 0}}), ProbeAnswer.ERROR),
        (says(200, {"usage": None}), ProbeAnswer.ERROR),
        (says(200, []), ProbeAnswer.ERROR),
        (says(404, {"error": "generation thread died"}), ProbeAnswer.ERROR),
        (cut, ProbeAnswer.REFUSED),
        (never, ProbeAnswer.SILENT),
    ],
)
async def test_canary(ask: Ask, handler: Handler, answer: ProbeAnswer) -> None:
    assert await (await ask(handler)).canary(0.1) is answer


async def test_the_canary_asks_for_one_token_of_the_childs_own_model_and_keeps_a_refusal(ask: Ask) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/v1/completions"
        body = await request.json()
        assert (body["model"], body["max_tokens"], body["stream"]) == ("default_model", 1, False)
        return web.json_response({"error": "no tokenizer"}, status=404)

    probe = await ask(handler)
    assert await probe.canary(None) is ProbeAnswer.ERROR
    assert probe.refusal == 'HTTP 404 {"error": "no tokenizer"}'


async def test_a_200_that_is_not_json_is_no_token(ask: Ask) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>")

    assert await (await ask(handler)).canary(0.1) is ProbeAnswer.ERROR
