from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.http import middleware, routes
from proxy.http.access import AccessControl

PAGE = "http://localhost:3000"
ACCESS = AccessControl(keys={"s3cret": "laptop"}, hosts={"127.0.0.1"}, origins={PAGE})

Client = TestClient[web.Request, web.Application]


async def _ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = web.Application(middlewares=[middleware.middleware(ACCESS, lambda *_: None)])
    app.on_response_prepare.append(middleware.add_headers)
    posts = [web.post("/v1/chat", _ok), web.post("/mlxguard/api/x", _ok)]
    app.add_routes(routes.table([*posts, web.get("/v1/models", _ok)]))
    async with TestClient(TestServer(app)) as client:
        yield client


def preflight(origin: str, **more: str) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return asked | {f"Access-Control-Request-{name.replace('_', '-')}": value for name, value in more.items()}


async def test_a_preflight_of_a_listed_page_needs_no_key(client: Client) -> None:
    asked = preflight(PAGE, Headers="authorization, x-stainless-os", Private_Network="true")
    answer = await client.options("/v1/chat", headers=asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Vary"] == "Origin"
    assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


async def test_other_pages_get_no_cors_headers(client: Client) -> None:
    for origin in ("http://evil.example", "null"):
        answer = await client.options("/v1/chat", headers=preflight(origin))
        assert answer.status == 403
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_odd_header_names_are_not_echoed(client: Client) -> None:
    answer = await client.options("/v1/chat", headers=preflight(PAGE, Headers='x"<script>'))
    assert answer.status == 204
    assert "Access-Control-Allow-Headers" not in answer.headers


async def test_a_listed_page_may_read_answers_and_errors(client: Client) -> None:
    for key, status in (("s3cret", 200), ("wrong", 401)):
        sent = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
        answer = await client.post("/v1/chat", headers=sent)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, PAGE)
        assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]


async def test_own_paths_are_for_own_pages(client: Client) -> None:
    key = {"Authorization": "Bearer s3cret"}
    assert (await client.post("/mlxguard/api/x", headers=key | {"Origin": PAGE})).status == 403
    own = f"http://127.0.0.1:{client.port}"
    assert (await client.post("/mlxguard/api/x", headers=key | {"Origin": own})).status == 200
    assert (await client.post("/mlxguard/api/x", headers={"Origin": own})).status == 401


async def test_options_lists_the_methods(client: Client) -> None:
    answer = await client.options("/v1/models")
    assert (answer.status, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (await client.options("/nowhere")).status == 404
