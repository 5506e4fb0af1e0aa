"""Bodies: their size, their time, their framing, and when "100 Continue" asks for one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from proxy.config.settings import ServerSettings
from tests.support.http_stand import HOST, Stand, close, parsed, running

POST = b"POST /echo HTTP/1.1\r\n" + HOST


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with running(ServerSettings(max_body_bytes=1000, body_timeout_s=0.2)) as stand:
        yield stand


async def test_a_body_over_the_limit_is_413_also_when_chunked(stand: Stand) -> None:
    whole = POST + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11
    for sent in (whole, chunked + b"0\r\n\r\n"):
        reader, writer = await stand.connect()
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        status, _, body = parsed(head + await reader.readexactly(length))
        assert (status, body["error"]["code"]) == (413, "request_too_large")
        await close(writer)
    longest = POST + b"Connection: close\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    assert (await stand.send(longest)).endswith(b"\r\n\r\n" + b"x" * 1000)


async def test_a_body_that_does_not_arrive_is_408(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(POST + b"Content-Length: 10\r\n\r\nabc")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    status, _, body = parsed(head + await reader.readexactly(length))
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    await close(writer)


async def test_an_encoding_that_cannot_be_decoded_is_415(stand: Stand) -> None:
    sent = POST + b"Connection: close\r\nContent-Encoding: compress\r\nContent-Length: 1\r\n\r\nx"
    status, _, body = parsed(await stand.send(sent))
    assert (status, body["error"]["code"]) == (415, "unsupported_encoding")


async def test_a_broken_chunk_is_the_clients_fault(stand: Stand) -> None:
    head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    status, _, body = parsed(await stand.send(head + b"zz\r\nhello\r\n"))
    assert (status, body["error"]["code"]) == (400, "invalid_value")


async def test_continue_is_only_sent_to_what_will_be_read(stand: Stand) -> None:
    for wrong in (b"Host: evil.example\r\n", HOST + b"Origin: http://evil.example\r\n"):
        expecting = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        status, headers, _ = parsed(await stand.send(b"POST /echo HTTP/1.1\r\n" + wrong + expecting))
        assert (status, headers["connection"]) == (403, "close")
    large = b"Expect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
    assert parsed(await stand.send(b"POST /echo HTTP/1.1\r\n" + HOST + large))[0] == 413
    reader, writer = await stand.connect()
    writer.write(b"POST /echo HTTP/1.1\r\n" + HOST + expecting)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert (await reader.readuntil(b"\r\n\r\nhello")).startswith(b"HTTP/1.1 200 OK\r\n")
    await close(writer)


async def test_a_body_that_is_not_compressed_as_it_says_is_no_fault_of_ours(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    head = POST + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
    status, _, body = parsed(await stand.send(head + b"not gzip!"))
    assert (status, body["error"]["code"]) == (400, "invalid_value")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"compress", b"gzip, gzip"])
async def test_every_other_encoding_is_415(stand: Stand, encoding: bytes) -> None:
    head = POST + b"Connection: close\r\nContent-Encoding: " + encoding + b"\r\nContent-Length: 1\r\n\r\nx"
    status, _, body = parsed(await stand.send(head))
    assert (status, body["error"]["code"]) == (415, "unsupported_encoding")
