from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.config.settings import ServerSettings
from proxy.http import body, middleware, routes
from proxy.http.access import AccessControl
from proxy.http.body_budget import BodyAccount, BodyBudget
from proxy.http.connection import Site
from proxy.http.early_listener import EarlyListener
from tests.support.http_stand import close

SETTINGS = ServerSettings(max_body_bytes=100, body_timeout_s=5)


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _read(request: web.Request) -> web.Response:
    return web.Response(body=await body.read_body(request, SETTINGS, BodyAccount(BodyBudget(10**6))))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    access = AccessControl(keys={}, hosts={"127.0.0.1"}, origins=())
    app = web.Application(middlewares=[middleware.middleware(access, lambda *_: None)])
    app.add_routes(routes.table([web.get("/get", _ok), web.post("/post", _read), web.get("/both", _ok)]))
    app.add_routes([web.delete("/both", _ok)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await Site(runner, await EarlyListener.open(sock), SETTINGS, lambda _: None).start()
    yield sock.getsockname()[1]
    await runner.cleanup()


async def send(port: int, head: str, body: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status and fields of the first answer, and all bytes. The connection is to be closed by the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nHost: 127.0.0.1\r\n".encode())
    writer.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode() if body else b"\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    answer += await asyncio.wait_for(reader.read(), 10) if b"onnection: close" in answer else b""
    await close(writer)
    line, *fields = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    named = {name.lower(): value for name, value in (text.split(": ", 1) for text in fields)}
    return int(line.split()[1]), named, answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /get HTTP/1.1", 200),
        ("GET /nowhere HTTP/1.1", 404),
        ("POST /nowhere HTTP/1.1", 404),
        ("POST /get HTTP/1.1", 405),
        ("GET /post HTTP/1.1", 405),
        ("POST /post HTTP/1.1\r\nOrigin: http://evil.example", 403),
        ("OPTIONS /post HTTP/1.1", 204),
    ],
)
async def test_continue_is_not_sent_for_a_body_that_is_not_read(port: int, head: str, status: int) -> None:
    expecting = f"{head}\r\nExpect: 100-continue\r\nContent-Length: 5"
    got, fields, answer = await send(port, expecting)
    assert (got, fields["connection"]) == (status, "close")
    assert b"100 Continue" not in answer


async def test_without_a_body_the_expectation_is_ignored(port: int) -> None:
    got, fields, _ = await send(port, "GET /get HTTP/1.1\r\nExpect: 100-continue")
    assert got == 200
    assert "connection" not in fields, "the connection goes on"


async def test_continue_is_sent_for_a_body_that_is_wanted(port: int) -> None:
    assert (await send(port, "POST /post HTTP/1.1\r\nExpect: 100-continue", "hello"))[0] == 100
    assert (await send(port, "POST /post HTTP/1.1\r\nExpect: the-impossible", "hello"))[0] == 200
    assert (await send(port, "POST /post HTTP/1.0\r\nExpect: 100-continue", "hello"))[0] == 200


async def test_methods_of_a_path_are_those_of_all_its_routes(port: int) -> None:
    got, fields, _ = await send(port, "PUT /both HTTP/1.1")
    assert (got, fields["allow"]) == (405, "DELETE, GET, HEAD")
    assert (await send(port, "OPTIONS /nowhere HTTP/1.1"))[0] == 404
