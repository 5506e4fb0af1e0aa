"""Connections over real sockets: what is not HTTP, how many there may be, and how slow they may be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import cast

import pytest

from proxy.config.settings import ServerSettings
from tests.support.http_stand import HOST, Stand, close, parsed, running


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    settings = ServerSettings(max_connections=4, connections_per_address=3)
    async with running(settings) as stand:
        yield stand


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


async def test_an_unknown_expectation_is_ignored(stand: Stand) -> None:
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


async def test_a_connection_over_the_limit_gets_503_and_one_that_closes_makes_room(stand: Stand) -> None:
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


async def test_a_head_that_arrives_too_slowly_is_408(stand: Stand) -> None:
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


async def test_the_rest_of_a_body_that_was_answered_early_is_no_head(stand: Stand) -> None:
    """An idle connection got a 408 for it, which its next request may take for its own answer."""
    reader, writer = await stand.connect()
    writer.write(b"POST /none HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n" + b"x" * 1000)
    answer = await reader.readuntil(b"}}")
    assert answer.startswith(b"HTTP/1.1 404")
    writer.write(b"x" * 199_000)
    await asyncio.sleep(0.2)
    stand.sweep(1000.0)
    writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await close(writer)
