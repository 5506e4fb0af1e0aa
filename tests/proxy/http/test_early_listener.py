"""Connections that arrive before the server is ready; real connections over loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from proxy.http.early_listener import EarlyListener
from tests.support.relay_stand import eventually


class Later(asyncio.Protocol):
    """The later server: echoes what it was sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"served " + data)


@pytest.fixture
async def listener() -> AsyncIterator[EarlyListener]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = await EarlyListener.open(sock)
        yield listener
        server = listener.hand_over(Later)
        server.close()


async def ask(listener: EarlyListener, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(sent)
    return reader, writer


async def test_livez_is_answered_at_once(listener: EarlyListener) -> None:
    reader, writer = await ask(listener, b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    await eventually(lambda: len(listener.held) == 1)
    writer.write(b"\r\n")
    with closing(writer):
        said = await reader.read()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"\r\nX-Request-ID: req-" in head
    assert body == b'{"status":"ok"}'
    await eventually(lambda: not listener.held)


async def test_other_connections_are_held_and_handed_over(listener: EarlyListener) -> None:
    held_reader, held = await ask(listener, b"POST /v1/chat")
    silent_reader, silent = await ask(listener, b"")
    await eventually(lambda: len(listener.held) == 2)

    listener.hand_over(Later)

    assert await held_reader.read(100) == b"served POST /v1/chat"
    silent.write(b"GET /readyz")
    assert await silent_reader.read(100) == b"served GET /readyz"
    late_reader, late = await ask(listener, b"GET /livez HTTP/1.1\r\n\r\n")
    assert (await late_reader.read(100)).startswith(b"served GET /livez")
    for writer in (held, silent, late):
        writer.close()


async def test_what_is_held_is_bounded(listener: EarlyListener) -> None:
    reader, writer = await ask(listener, b"x" * 10_000_000)
    await eventually(lambda: bool(listener.held) and bool(next(iter(listener.held))._received))
    await asyncio.sleep(0.05)
    assert len(next(iter(listener.held))._received) < 1_000_000

    listener.hand_over(Later)

    writer.write_eof()
    assert len((await reader.read()).replace(b"served ", b"")) == 10_000_000
    writer.close()


async def test_a_closed_connection_is_forgotten(listener: EarlyListener) -> None:
    _, writer = await ask(listener, b"GET /rea")
    await eventually(lambda: len(listener.held) == 1)
    writer.close()
    await eventually(lambda: not listener.held)
