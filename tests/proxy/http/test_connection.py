"""Connections over real sockets, with a clock that the tests turn."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiohttp import web

from proxy.config.settings import ServerSettings
from proxy.http import body, middleware, routes
from proxy.http.access import AccessControl
from proxy.http.body_budget import BodyAccount, BodyBudget
from proxy.http.connection import Site
from proxy.http.early_listener import EarlyListener

SETTINGS = ServerSettings(
    max_connections=4, connections_per_address=3, max_body_bytes=100_000, body_timeout_s=5
)
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


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    now = [0.0]
    refused: list[int] = []
    cancelled = asyncio.Event()

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await body.read_body(request, SETTINGS, BodyAccount(BodyBudget(10**6))))

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        finally:
            cancelled.set()

    access = AccessControl(keys={}, hosts={"127.0.0.1"}, origins=())
    app = web.Application(middlewares=[middleware.middleware(access, lambda *_: None)])
    app.on_response_prepare.append(middleware.add_headers)
    posts = [web.post("/echo", echo)]
    app.add_routes(routes.table([*posts, web.get("/endless", endless), web.get("/livez", echo)]))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    site = Site(runner, await EarlyListener.open(sock), SETTINGS, refused.append, clock=lambda: now[0])
    await site.start()
    yield Stand(site, sock.getsockname()[1], now, refused, cancelled)
    await runner.cleanup()


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body)


SECRET = b"hunter2hunter2"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello %b\r\n\r\n" % SECRET, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X " + SECRET + b": 1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: a\x00" + SECRET + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b" folded: " + SECRET + b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + SECRET * 2000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 0x4\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, gunzip\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_gets_an_error_object_that_quotes_nothing(
    stand: Stand, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        got, headers, body = parsed(await stand.send(sent))
    assert (got, headers["content-type"]) == (status, "application/json")
    assert body["error"]["type"] == "invalid_request_error"
    assert headers["server"] == "mlxguard-proxy"
    assert headers["x-request-id"].startswith("req-")
    assert stand.refused == [status]
    assert SECRET.decode() not in caplog.text
    assert "Traceback" not in caplog.text


async def test_an_unknown_expectation_is_passed_over(stand: Stand) -> None:
    """RFC 9110, 10.1.1: a server MAY answer 417, and most do not."""
    for path, expected in ((b"/no", 404), (b"/livez", 200)):
        answer = await stand.send(
            b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Expect: <b>\r\nConnection: close\r\n\r\n"
        )
        assert int(answer.split()[1]) == expected


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez\r\n\r\n", 400),  # HTTP/0.9
        (b"GET /livez HTTP/2.0\r\n" + HOST, 400),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),  # a balancer's probe
        (b"GET /endless HTTP/1.0\r\n\r\n", 403),
        (b"GET http://127.0.0.1/livez HTTP/1.1\r\n" + HOST, 200),
        (b"GET http://evil.example/livez HTTP/1.1\r\n" + HOST, 403),
        (b"GET http://127.0.0.1@evil.example/livez HTTP/1.1\r\n" + HOST, 403),
        (b"GET http://127.0.0.1/livez HTTP/1.1\r\nHost: evil.example\r\n", 403),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST, 204),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST, 404),
        (b"TRACE /livez HTTP/1.1\r\n" + HOST, 405),
        (b"HEAD /livez HTTP/1.1\r\n" + HOST, 200),
        (b"HEAD /nowhere HTTP/1.1\r\n" + HOST, 404),
        (b"GET /livez HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + HOST, 200),
        (b"GET /livez HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n" + HOST, 200),
        (b"GET /livez HTTP/1.1\r\nAuthorization: \xff\xfe\r\n" + HOST, 200),
    ],
)
async def test_odd_forms_of_a_request(stand: Stand, head: bytes, status: int) -> None:
    answer = await stand.send(
        head + (b"Connection: close\r\n\r\n" if HOST in head or b"Host" in head else b"")
    )
    line, _, rest = answer.partition(b"\r\n")
    assert line.split()[:2] == [b"HTTP/1.0" if b"HTTP/1.0" in head else b"HTTP/1.1", b"%d" % status]
    assert (b"\r\n\r\n{" in rest) is (status >= 400 and not head.startswith(b"HEAD"))


async def test_a_broken_chunk_is_the_clients_fault(stand: Stand) -> None:
    head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    status, _, body = parsed(await stand.send(head + b"zz\r\nhello\r\n"))
    assert (status, body["error"]["code"]) == (400, "invalid_value")


async def test_continue_is_only_sent_to_what_will_be_read(stand: Stand) -> None:
    for wrong in (b"Host: evil.example\r\n", HOST + b"Origin: http://evil.example\r\n"):
        expecting = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        status, headers, _ = parsed(await stand.send(b"POST /echo HTTP/1.1\r\n" + wrong + expecting))
        assert (status, headers["connection"]) == (403, "close")
    large = b"Expect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
    assert parsed(await stand.send(b"POST /echo HTTP/1.1\r\n" + HOST + large))[0] == 413
    reader, writer = await stand.connect()
    writer.write(b"POST /echo HTTP/1.1\r\n" + HOST + expecting)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert (await reader.readuntil(b"\r\n\r\nhello")).startswith(b"HTTP/1.1 200 OK\r\n")
    await close(writer)


async def test_a_connection_too_many_is_told_to_come_back_and_leaves_a_free_place(stand: Stand) -> None:
    held = [await stand.connect() for _ in range(3)]
    for reader, writer in held:
        writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
    status, headers, body = parsed(await stand.send(b""))
    assert (status, body["error"]["code"]) == (503, "503")
    assert "retry-after" in headers
    await close(held[0][1])
    while len(stand.site.counts) > 2:
        await asyncio.sleep(0)
    answer = await stand.send(b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    await close(*(writer for _, writer in held))


async def test_a_head_that_drips_is_408(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"GET /livez HTTP/1.1\r\nHo")
    while not stand.site.connections:
        await asyncio.sleep(0)
    stand.sweep(14.9)
    writer.write(b"st: 12")
    stand.sweep(15.0)
    status, _, body = parsed(await asyncio.wait_for(reader.read(), 5))
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    await close(writer)


async def test_a_client_that_does_not_read_is_dropped_and_its_handler_ends(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"GET /endless HTTP/1.1\r\n" + HOST + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    cast("asyncio.Transport", writer.transport).pause_reading()
    (connection,) = stand.site.connections
    while not connection.writing_paused:
        await asyncio.sleep(0.01)
    left = -1
    while left != (left := connection.unsent):
        await asyncio.sleep(0.05)
    stand.sweep(10.0)
    stand.sweep(129.0)
    assert not stand.cancelled.is_set()
    stand.sweep(130.0)
    await asyncio.wait_for(stand.cancelled.wait(), 5)
    await close(writer)
