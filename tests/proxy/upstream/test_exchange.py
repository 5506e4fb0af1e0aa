"""What the child answers, read piece by piece: its ends, its death, and how it is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import AbortedExchange
from tests.support.exchange_stand import DEATH, PATH, all_of, leave_after_headers, life_of
from tests.support.fake_child import FakeChild


@pytest.fixture
async def child() -> AsyncIterator[FakeChild]:
    async with FakeChild() as child:
        yield child


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.stop()


async def test_what_is_not_read_is_not_taken_from_the_child(child: FakeChild, upstream: Upstream) -> None:
    """Back-pressure: a child that writes 50 MB to a reader that waits is stopped after a fraction."""
    written = 0

    async def writes() -> None:
        nonlocal written
        call = await child.call()
        await call.start()
        for _ in range(500):
            await call.send(b"x" * 100_000)
            written += 100_000
        await call.finish()

    writing = asyncio.create_task(writes())
    async with upstream.post(life_of(child), PATH, b"{}") as exchange:
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert 0 < written < 15_000_000, "what the kernel's and our buffers hold"

        assert len(await all_of(exchange)) == 50_000_000
    await writing


@pytest.mark.parametrize("reset", [True, False])
async def test_an_end_proves_nothing(child: FakeChild, upstream: Upstream, reset: bool) -> None:
    """The length is not known: a reset, too, looks like an end."""

    async def client() -> bytes:
        async with upstream.post(life_of(child), PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = asyncio.create_task(client())
    call = await child.call()
    await call.start()
    if reset:
        call.reset()
    else:
        await call.finish()
    assert await asking == b""


async def test_cut_short_of_a_known_length(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> bytes:
        async with upstream.post(life_of(child), PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = asyncio.create_task(client())
    call = await child.call()
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await call.finish()
    with pytest.raises(UpstreamBroken) as broken:
        await asking
    assert broken.value.how is BreakKind.CUT


async def test_closing_resets_the_connection(child: FakeChild, upstream: Upstream) -> None:
    """The child's very next write must fail, or it computes a whole prefill step for nothing."""
    asking = asyncio.create_task(leave_after_headers(child, upstream))
    call = await child.call()
    await call.start()
    await asking

    assert await call.was_reset()


async def test_how_it_ended_is_told_once(child: FakeChild, upstream: Upstream) -> None:
    reports: list[AbortedExchange | None] = []

    async def ask(*, to_the_end: bool) -> None:
        async with upstream.post(life_of(child), PATH, b"{}", on_end=reports.append) as exchange:
            while to_the_end and await exchange.read():
                pass

    for to_the_end in (True, False):
        asking = asyncio.create_task(ask(to_the_end=to_the_end))
        call = await child.call()
        await (call.answer(b"data: {}\n\n") if to_the_end else call.start())
        await asking
    ended, cut = reports
    assert ended is None
    assert cut is not None
    assert cut.port > 0


async def test_a_reader_of_a_silent_dead_child_is_woken(child: FakeChild, upstream: Upstream) -> None:
    life = life_of(child)

    async def client() -> bytes:
        async with upstream.post(life, PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = asyncio.create_task(client())
    call = await child.call()
    await call.start()
    await call.send(b"last words")
    life.died.set_result(DEATH)
    with pytest.raises(UpstreamBroken):
        await asking


async def test_last_words_are_heard(child: FakeChild, upstream: Upstream) -> None:
    """What a child sent before it died is read, however late the reader comes."""
    life = life_of(child)
    said = b"x" * 1_000_000

    async def speaks() -> None:
        await (await child.call()).answer(said)

    speaking = asyncio.create_task(speaks())
    async with upstream.post(life, PATH, b"{}") as exchange:
        life.died.set_result(DEATH)
        await asyncio.sleep(0.3)
        assert len(await all_of(exchange)) == len(said)
    await speaking
