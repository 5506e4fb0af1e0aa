"""The middleware: keys, request ids, and every error as a documented response."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy import errors
from proxy.http import middleware, routes
from proxy.http.access import AccessControl

LOCAL = AccessControl(keys={}, hosts={"localhost", "127.0.0.1", "::1"}, origins={"http://localhost:3000"})
KEYED = AccessControl(keys={"s3cret": "laptop", "other": "ci"}, hosts={"127.0.0.1"}, origins=())

Client = TestClient[web.Request, web.Application]
Statuses = list[int]


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _refuse(request: web.Request) -> web.Response:
    raise errors.Unavailable("the queue is full")


async def _bug(request: web.Request) -> web.Response:
    raise ZeroDivisionError("secret detail")


async def _client(request: web.Request) -> web.Response:
    return web.Response(text=request[middleware.CLIENT])


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[AccessControl], Awaitable[tuple[Client, Statuses]]]]:
    clients: list[Client] = []

    async def make(access: AccessControl) -> tuple[Client, Statuses]:
        statuses: Statuses = []
        app = web.Application(middlewares=[middleware.middleware(access, statuses.append)])
        app.on_response_prepare.append(middleware.add_headers)
        gets = {"/refuse": _refuse, "/bug": _bug, "/client": _client, "/livez": _ok}
        posts = [web.post("/body", _echo)]
        app.add_routes(routes.table([*posts, *(web.get(path, get) for path, get in gets.items())]))
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return client, statuses

    yield make
    for client in clients:
        await client.close()


async def _ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


# --- access ----------------------------------------------------------------------------------------


async def test_probes_need_no_key_and_the_rest_does(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]],
) -> None:
    client, _ = await connect(KEYED)
    assert (await client.get("/livez")).status == 200
    refused = await client.get("/client")
    assert refused.status == 401
    assert (await refused.json())["error"]["code"] == "invalid_api_key"
    admitted = await client.get("/client", headers={"Authorization": "Bearer s3cret"})
    assert await admitted.text() == "laptop"


# --- errors ----------------------------------------------------------------------------------------


async def test_an_error_is_an_object_with_headers_and_an_id(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]],
) -> None:
    client, statuses = await connect(LOCAL)
    answer = await client.get("/refuse")
    assert answer.status == 503
    assert answer.content_type == "application/json"
    assert 10 <= int(answer.headers["Retry-After"]) <= 30
    assert answer.headers["x-request-id"].startswith("req-")
    assert (await answer.json())["error"]["type"] == "server_error"
    assert statuses == [503]


async def test_a_refusal_is_logged_with_its_reason_and_probes_are_not_counted(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]], caplog: pytest.LogCaptureFixture
) -> None:
    client, statuses = await connect(LOCAL)
    with caplog.at_level(logging.INFO, "mlxguard.http"):
        await client.get("/refuse")
        await client.get("/livez")
    (record,) = [record for record in caplog.records if record.getMessage() == "refused"]
    assert vars(record)["status"] == 503
    assert vars(record)["reason"] == "the queue is full"
    assert statuses == [503]


async def test_a_bug_is_a_logged_500_without_details(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]], caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = await connect(LOCAL)
    with caplog.at_level(logging.ERROR, "mlxguard"):
        answer = await client.get("/bug")
    assert answer.status == 500
    assert "secret detail" not in await answer.text()
    assert "secret detail" in caplog.text


async def test_unknown_paths_and_methods_are_json(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]],
) -> None:
    client, _ = await connect(LOCAL)
    for path in ("/nowhere", "/api/tags", "/props"):
        answer = await client.get(path)
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
    answer = await client.get("/body")
    assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2:3_4", True), ("", False), ("a b", False), ("x" * 65, False), ("a;b", False)]
)
async def test_a_safe_request_id_is_kept(
    connect: Callable[..., Awaitable[tuple[Client, Statuses]]], sent: str, kept: bool
) -> None:
    client, _ = await connect(LOCAL)
    answer = await client.get("/livez", headers={"x-request-id": sent})
    assert (answer.headers["x-request-id"] == sent) is kept


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), errors.Unavailable("late")])
async def test_a_response_that_has_begun_is_never_answered_again(
    connect: Callable[[AccessControl], Awaitable[tuple[Client, Statuses]]], error: Exception
) -> None:
    async def begin(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise error

    client, _ = await connect(LOCAL)
    client.app.router._frozen = False  # type: ignore[union-attr]
    client.app.router.add_get("/begun", begin)  # type: ignore[union-attr]
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /begun HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = await reader.read()
    writer.close()
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"5\r\nbegun\r\n"), "without the last chunk, so that the client notices"
