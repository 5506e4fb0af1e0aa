"""Streaming clients: ones that read slowly or not at all, on raw sockets, and what breaks a silence."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from proxy.config.settings import QueueSettings
from proxy.gate.budget import Budget
from proxy.job import Outcome, Stage
from proxy.stream import keepalive
from tests.support import child_events
from tests.support.fake_child import Call
from tests.support.relay_stand import Stand, a_stand, eventually, text_of


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


@asynccontextmanager
async def slow_client(stand: Stand) -> AsyncIterator[socket.socket]:
    """A socket that asked for a stream, takes little in its own buffer, and has not read yet."""
    assert stand.server
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (stand.server.host, stand.server.port))
        body = json.dumps({"stream": True}).encode()
        head = f"POST /chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(sock, head.encode() + body)
        yield sock


async def all_from(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
        found += data
    return bytes(found)


class Flood:
    """A child that writes as fast as it is let: events of 1,000 characters."""

    def __init__(self, call: Call, events: int) -> None:
        self.sent = 0
        self._call = call
        self._events = events

    async def run(self) -> None:
        await self._call.start()
        for _ in range(self._events):
            await self._call.send(child_events.delta(content="x" * 1000))
            self.sent += 1
        await self._call.send(child_events.DONE)
        await self._call.finish()

    async def stands_still(self) -> None:
        before = -1
        while before != self.sent:
            before = self.sent
            await asyncio.sleep(0.1)


async def test_a_slow_client_slows_its_child_and_loses_nothing(stand: Stand) -> None:
    async with slow_client(stand) as client:
        flood = Flood(await stand.child.call(), events=20_000)
        running = asyncio.create_task(flood.run())
        await flood.stands_still()
        assert 0 < flood.sent < 15_000, "20 MB would be in our memory"

        answer = await all_from(client)

    await running
    assert answer.count(b'"finish_reason"') == 20_000
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert stand.jobs[0].outcome is Outcome.OK


async def test_no_keep_alives_pile_up_before_a_client_that_does_not_read(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.001)
    async with slow_client(stand) as client:
        flood = Flood(await stand.child.call(), events=20_000)
        running = asyncio.create_task(flood.run())
        await flood.stands_still()
        writes: list[bytes] = []
        with monkeypatch.context() as patch:
            patch.setattr(web.StreamResponse, "write", lambda _, data: writes.append(data))
            await asyncio.sleep(0.1)
        assert writes == []

        assert (await all_from(client)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await running


async def test_a_client_that_resets_while_we_wait_for_it_to_read(stand: Stand) -> None:
    async with slow_client(stand) as client:
        flood = Flood(await stand.child.call(), events=20_000)
        running = asyncio.create_task(flood.run())
        await flood.stands_still()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with pytest.raises(ConnectionError):
        await running
    await eventually(lambda: stand.jobs[0].stage is Stage.ENDED)
    assert stand.jobs[0].outcome is Outcome.CLIENT_GONE


async def test_a_client_of_http_1_0_gets_a_plain_stream(stand: Stand) -> None:
    assert stand.server
    reader, writer = await asyncio.open_connection(stand.server.host, stand.server.port)
    writer.write(b'POST /chat HTTP/1.0\r\nContent-Length: 16\r\n\r\n{"stream": true}')
    await (await stand.child.call()).answer(child_events.chat_stream("Hel", "lo"))

    head, _, stream = (await reader.read()).partition(b"\r\n\r\n")

    assert b"chunked" not in head
    assert text_of(stream) == "Hello"
    assert stream.endswith(b"data: [DONE]\n\n")
    writer.close()
    await writer.wait_closed()


async def test_headers_are_sent_once_when_content_and_keep_alive_come_together(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.001)
    for _ in range(20):
        asking = stand.ask(stream=True)
        await (await stand.child.call()).answer(child_events.chat_stream("a", "b"))
        response = await asking
        assert text_of(await response.read()) == "ab"


async def test_the_deadline_of_a_held_stream_ends_it_by_contract(stand: Stand) -> None:
    stand.supervisor.down()
    stand.options = QueueSettings(headers_after_s=0.01, keepalive_s=0.01)
    stand.max_wait_s = 0.1

    response = await stand.ask(stream=True)
    stream = await response.read()

    assert response.status == 200
    assert stream.startswith(b": starting\n\n: starting\n\n")
    *_, error, done, _ = stream.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "503"
    assert done == b"data: [DONE]"
    assert stand.jobs[0].outcome is Outcome.UNAVAILABLE


async def test_a_held_stream_tells_where_it_is(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.005)
    stand.gate.set_budget(Budget(max_running=1))
    asking = stand.ask()
    call = await stand.child.call()
    held = await stand.ask(stream=True)
    assert await held.content.readline() == b": queued position=1\n"
    await call.answer(child_events.chat_stream("x"))
    call = await stand.child.call()
    await call.start()
    await call.send(b": keepalive 512/2048\n\n")
    await read_until(held, b": prefill 512/2048\n")
    stand.supervisor.down()
    await call.finish()
    await read_until(held, b": restarting\n")
    stand.supervisor.up(stand.child)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="Hel"))
    await read_until(held, b": decode\n")  # a tool call is being generated: the child says nothing
    await call.send(child_events.delta(content="lo") + child_events.DONE)
    rest = await held.read()

    assert text_of(rest) == "lo"
    assert (await asking).status == 200


async def read_until(response: aiohttp.ClientResponse, line: bytes) -> None:
    async with asyncio.timeout(10):
        while await response.content.readline() != line:
            pass


async def test_a_long_silence_gets_empty_events(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "EMPTY_EVENT_EVERY_S", 0.02)
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.005)
    stand.supervisor.down()
    held = await stand.ask(stream=True)

    await read_until(held, stand.jobs[0].answer.empty_event().removesuffix(b"\n"))

    held.close()
