"""One exchange with a child whose every byte the test sends; what is built on it is in test_upstream.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from proxy.upstream.http10 import BadAnswer, Http10Connection, connected
from tests.support.fake_child import Call, FakeChild


@pytest.fixture
async def child() -> AsyncIterator[FakeChild]:
    async with FakeChild() as child:
        yield child


async def ask(child: FakeChild, fields: str = "") -> tuple[Http10Connection, Call]:
    wire = await connected("127.0.0.1", child.port, 1.0)
    await wire.ask("/v1/completions", b'{"a": 1}', fields)
    return wire, await child.call()


async def all_of(wire: Http10Connection) -> bytes:
    found = bytearray()
    while data := await wire.read():
        found += data
    return bytes(found)


async def test_an_answer_that_ends_with_its_connection(child: FakeChild) -> None:
    wire, call = await ask(child)
    assert (call.path, call.json) == ("/v1/completions", {"a": 1})
    await call.answer(b"data: x\n\n")
    await wire.answered()
    assert wire.status == 200
    assert await all_of(wire) == b"data: x\n\n"
    wire.abort()


async def test_an_answer_in_single_bytes(child: FakeChild) -> None:
    wire, call = await ask(child)
    for byte in b"HTTP/1.0 404 Not Found\r\nContent-type: text/html\r\ncontent-LENGTH: 4\r\n\r\nabcd":
        await call.send(bytes([byte]))
    await wire.answered()
    assert wire.status == 404
    assert await all_of(wire) == b"abcd", "which is the end, though the connection lives"
    wire.abort()


async def test_more_than_was_announced_is_no_part_of_it(child: FakeChild) -> None:
    wire, call = await ask(child)
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabcdef")
    await wire.answered()
    assert await all_of(wire) == b"abcd"
    wire.abort()


async def test_less_than_was_announced(child: FakeChild) -> None:
    wire, call = await ask(child)
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabcd")
    await call.finish()
    await wire.answered()
    assert await wire.read() == b"abcd"
    with pytest.raises(BadAnswer, match="5 bytes less"):
        await wire.read()


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n\r\n", b"x" * 100_000, b"HTTP/2 200\r\n\r\n"])
async def test_what_is_no_answer(child: FakeChild, said: bytes) -> None:
    wire, call = await ask(child)
    await call.send(said)
    with pytest.raises(BadAnswer):
        await wire.answered()


async def test_an_end_before_the_answer(child: FakeChild) -> None:
    wire, call = await ask(child)
    await call.finish()
    with pytest.raises(BadAnswer, match="without an answer"):
        await wire.answered()


async def test_a_reader_that_waits_can_be_interrupted(child: FakeChild) -> None:
    wire, call = await ask(child)
    await call.start()
    await wire.answered()
    wire.interrupt(ConnectionAbortedError("nobody waits"))
    reading = asyncio.create_task(wire.read())
    await asyncio.sleep(0)
    wire.interrupt(ConnectionAbortedError("the child died"))
    with pytest.raises(ConnectionAbortedError, match="died"):
        await reading
    wire.abort()


async def test_further_header_fields_are_sent(child: FakeChild) -> None:
    wire, call = await ask(child, "Via: 1.1 somebody\r\n")
    assert call.json == {"a": 1}
    await call.answer(b"")
    await wire.answered()
    assert await wire.read() == b""


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await connected("127.0.0.1", port, 1.0)


async def test_no_room_for_a_connection() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # as many as there is room for, and more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        with pytest.raises(TimeoutError):
            await connected("127.0.0.1", server.getsockname()[1], 0.05)
