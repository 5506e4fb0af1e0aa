"""Fetching from a real server on loopback; names are looked up where the test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.errors import InvalidRequest, Unavailable
from proxy.http.body_budget import FREE_BYTES, BodyBudget
from proxy.http.image_fetch import ImageFetch, PublicResolver, is_public
from proxy.request.images import ImagePolicy, RemoteImage

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


@dataclass
class Stand:
    """A server of images, and what it was asked."""

    port: int = 0
    asked: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        match request.path:
            case "/a.png":
                return web.Response(body=PNG, content_type="image/png")
            case "/html":
                return web.Response(text="<html>", content_type="text/html")
            case "/liar":
                return web.Response(text="<html>", content_type="image/png")
            case "/large":
                return web.Response(body=PNG + bytes(10_000), content_type="image/png")
            case "/redirect":
                raise web.HTTPFound(f"http://127.0.0.1:{self.port}/a.png")
            case "/never":
                await asyncio.Event().wait()
        raise web.HTTPNotFound

    def remote(self, path: str, host: str = "127.0.0.1") -> tuple[RemoteImage, ...]:
        return (RemoteImage(f"http://{host}:{self.port}{path}", "messages[0].content[0].image_url", 0, 0),)

    def fetch(self, host: str = "127.0.0.1", timeout_s: float = 5, **lookup: Any) -> ImageFetch:
        policy = ImagePolicy(most=8, most_bytes=1000, hosts=frozenset({f"{host}:{self.port}"}), obstacle=None)
        return ImageFetch(policy, timeout_s, **lookup)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand = Stand()
    app = web.Application()
    app.router.add_get("/{path:.*}", stand.handle)
    async with TestServer(app) as server:
        stand.port = server.port or 0
        yield stand


async def fetched(fetch: ImageFetch, remotes: tuple[RemoteImage, ...], most: int = 10**6) -> list[str]:
    try:
        with BodyBudget(2 * most).account() as account:
            account.add(FREE_BYTES)
            return await fetch.fetch(remotes, account)
    finally:
        await fetch.stop()


async def test_an_image_becomes_a_data_url(stand: Stand) -> None:
    (url,) = await fetched(stand.fetch(), stand.remote("/a.png"))
    assert url.startswith("data:image/png;base64,iVBORw0KGgo")
    (request,) = stand.asked
    assert {name.lower() for name in request.headers} <= {"host", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize("path", ["/html", "/liar", "/large", "/redirect", "/nothing"])
async def test_what_is_not_an_image_of_a_listed_host_is_refused_by_its_field(stand: Stand, path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await fetched(stand.fetch(), stand.remote(path))
    assert refusal.value.param == "messages[0].content[0].image_url"
    assert [request.path for request in stand.asked] == [path], "a redirect is not followed"


async def test_the_time_is_bounded(stand: Stand) -> None:
    with pytest.raises(InvalidRequest, match="could not be fetched"):
        await fetched(stand.fetch(timeout_s=0.1), stand.remote("/never"))


async def test_a_host_that_does_not_listen_is_a_refusal(stand: Stand, unused_tcp_port: int) -> None:
    port, stand.port = stand.port, unused_tcp_port
    with pytest.raises(InvalidRequest, match="could not be fetched"):
        await fetched(stand.fetch(), stand.remote("/a.png"))
    stand.port = port


async def test_fetched_images_are_charged_to_the_body_budget(stand: Stand) -> None:
    with pytest.raises(Unavailable):
        await fetched(stand.fetch(), stand.remote("/a.png"), most=10)


async def test_a_url_that_the_client_parses_differently_is_refused(stand: Stand) -> None:
    with pytest.raises(InvalidRequest, match="plain URL"):
        await fetched(stand.fetch(host="pics.example"), stand.remote("/a.png", host="other.example"))


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_a_listed_name_of_a_private_address_is_refused(stand: Stand, address: str) -> None:
    """DNS rebinding: the name is allowed, its address is not."""

    async def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    fetch = stand.fetch(host="pics.example", lookup=lookup)
    with pytest.raises(InvalidRequest, match="could not be fetched"):
        await fetched(fetch, stand.remote("/a.png", host="pics.example"))
    assert stand.asked == []


async def test_only_the_public_addresses_of_a_name_are_used() -> None:
    async def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("10.0.0.1", "93.184.215.14")
        ]

    found = await PublicResolver(lookup).resolve("pics.example", 80)
    assert [result["host"] for result in found] == ["93.184.215.14"]
    assert found[0]["flags"] & socket.AI_NUMERICHOST, "pinned: not looked up again"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
        ("::7f00:1", False),
        ("::5db8:d70e", False),
        ("::ffff:0:7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
