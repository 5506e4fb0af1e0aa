"""Administration: recycle the child, and cancel a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.api.admin import AdminActions
from proxy.app import access_control
from proxy.config.settings import ServerSettings
from proxy.http import middleware
from proxy.relay.registry import Registry
from supervisor.lifecycle.state_machine import IllegalEvent
from tests.proxy.api.test_status import job

Http = TestClient[web.Request, web.Application]


class Stage:
    def __init__(self) -> None:
        self.recycled: list[str] = []
        self.stopping = False
        self.registry = Registry()

    async def recycle(self, reason: str) -> None:
        if self.stopping:
            raise IllegalEvent("Recycle in state stopping")
        self.recycled.append(reason)


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.fixture
async def http(stage: Stage) -> AsyncIterator[Http]:
    access = access_control(ServerSettings(), {"secret": "me"})
    app = web.Application(middlewares=[middleware.middleware(access, lambda _: None)])
    app.on_response_prepare.append(middleware.add_headers)
    admin = AdminActions(stage.recycle, stage.registry)
    app.add_routes(
        [
            web.post("/mlxguard/api/recycle", admin.recycle),
            web.post("/mlxguard/api/requests/{id}/cancel", admin.cancel),
        ]
    )
    async with TestClient(TestServer(app), headers={"Authorization": "Bearer secret"}) as client:
        yield client


async def test_the_child_is_recycled(http: Http, stage: Stage) -> None:
    answer = await http.post("/mlxguard/api/recycle")
    assert (answer.status, await answer.json()) == (202, {"status": "recycling"})
    assert stage.recycled == ["requested over HTTP"]


async def test_nothing_is_recycled_while_stopping(http: Http, stage: Stage) -> None:
    stage.stopping = True
    assert (await http.post("/mlxguard/api/recycle")).status == 503


@pytest.mark.parametrize("id", ["cmpl-1", "r"])
async def test_a_request_is_cancelled_by_either_id(http: Http, stage: Stage, id: str) -> None:
    one, begun = job("1"), asyncio.Event()

    async def serve() -> None:
        with stage.registry.track(one):
            begun.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await begun.wait()
    assert (await http.post(f"/mlxguard/api/requests/{id}/cancel")).status == 202
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert one.cancelled


async def test_an_unknown_request_cannot_be_cancelled(http: Http) -> None:
    assert (await http.post("/mlxguard/api/requests/unknown/cancel")).status == 404


@pytest.mark.parametrize("path", ["recycle", "requests/x/cancel"])
async def test_without_a_key_nothing_is_done(http: Http, stage: Stage, path: str) -> None:
    answer = await http.post(f"/mlxguard/api/{path}", headers={"Authorization": "Bearer wrong"})
    assert answer.status == 401
    assert not stage.recycled
