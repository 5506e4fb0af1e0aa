"""A site over real sockets, with a clock that the tests turn."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.config.settings import ServerSettings
from proxy.http import body, middleware, routes
from proxy.http.access import AccessControl
from proxy.http.body_budget import BodyAccount, BodyBudget
from proxy.http.connection import Site
from proxy.http.early_listener import EarlyListener

HOST = b"Host: 127.0.0.1\r\n"


@dataclass
class Stand:
    """A running site."""

    site: Site
    port: int
    now: list[float]
    refused: list[int] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def sweep(self, now: float) -> None:
        """What the site's timer does, at a time of the test's choosing."""
        self.now[0] = now
        for connection in tuple(self.site.connections):
            connection.check(now)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, data: bytes) -> bytes:
        """One connection's whole answer to `data`."""
        reader, writer = await self.connect()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 20)
        await close(writer)
        return answer


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def running(settings: ServerSettings) -> AsyncIterator[Stand]:
    """A site with three routes: POST /echo, GET /endless, GET /livez."""
    now = [0.0]
    refused: list[int] = []
    cancelled = asyncio.Event()

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await body.read_body(request, settings, BodyAccount(BodyBudget(10**6))))

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        finally:
            cancelled.set()

    access = AccessControl(keys={}, hosts={"127.0.0.1"}, origins=())
    app = web.Application(middlewares=[middleware.middleware(access, lambda _: None)])
    app.on_response_prepare.append(middleware.add_headers)
    posts = [web.post("/echo", echo)]
    app.add_routes(routes.table([*posts, web.get("/endless", endless), web.get("/livez", echo)]))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    site = Site(runner, await EarlyListener.open(sock), settings, refused.append, clock=lambda: now[0])
    await site.start()
    yield Stand(site, sock.getsockname()[1], now, refused, cancelled)
    await runner.cleanup()


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body)
