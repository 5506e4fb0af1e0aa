"""Every path is served by the handler that is meant for it."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from proxy.api.admin import AdminActions
from proxy.api.completions import Completions
from proxy.api.pages import Pages
from proxy.api.router import route_table


class Named:
    """Stands for an object whose handlers are not called, only told apart by name."""

    def __getattr__(self, name: str) -> Any:
        return name


def test_no_route_is_listed_twice() -> None:
    table = route_table(cast("Completions", Named()), cast("Pages", Named()), cast("AdminActions", Named()))
    assert set(Counter((route.method, route.path) for route in table).values()) == {1}
    handlers = {(route.method, route.path): str(route.handler) for route in table}
    assert handlers["POST", "/v1/chat/completions"] == handlers["POST", "/chat/completions"] == "chat"
    assert handlers["GET", "/readyz"] == handlers["GET", "/health"] == "readyz"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/mlxguard/api/recycle", 202),
        ("POST", "/mlxguard/api/requests/none/cancel", 404),
        ("GET", "/v1/models/openai/tiny", 200),
        ("GET", "/v1/chat/completions", 405),
    ],
)
async def test_routes_lead_to_their_handlers(
    client: TestClient[web.Request, web.Application], method: str, path: str, status: int
) -> None:
    assert (await client.request(method, path)).status == status
