"""The HTTP client to the child, against one that misbehaves at exact moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.core.answer import Break
from proxy.upstream import Cut, Exchange, OnEnd, Upstream, UpstreamBroken
from supervisor.causes import Cause
from supervisor.generation import Death, Generation
from supervisor.lifecycle import State
from tests.fake_child import FakeChild
from tests.relay_stand import eventually

PATH = "/v1/completions"
DEATH = Death(1, Cause.UNKNOWN, "it died", "", None, None, (), State.READY)


@pytest.fixture
async def child() -> AsyncIterator[FakeChild]:
    async with FakeChild() as child:
        yield child


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.stop()


def life_of(child: FakeChild) -> Generation:
    return Generation(1, child.port, lambda: None)


async def all_of(exchange: Exchange) -> bytes:
    found = bytearray()
    while data := await exchange.read():
        found += data
    return bytes(found)


async def test_a_request_and_its_answer(child: FakeChild, upstream: Upstream) -> None:
    life = life_of(child)

    async def client() -> tuple[int, bytes]:
        async with upstream.post(life, PATH, b'{"a": 1}') as exchange:
            return exchange.status, await all_of(exchange)

    asking = asyncio.create_task(client())
    call = await child.call()
    assert (call.path, call.json) == (PATH, {"a": 1})
    await call.answer(b"data: x\n\n")

    assert await asking == (200, b"data: x\n\n")
    assert life.reads > 0


async def test_thirty_megabytes_of_request(child: FakeChild, upstream: Upstream) -> None:
    body = b"x" * 30_000_000

    async def client() -> int:
        async with upstream.post(life_of(child), PATH, body) as exchange:
            return len(await all_of(exchange))

    asking = asyncio.create_task(client())
    call = await child.call()
    assert len(call.body) == len(body)
    await call.answer(b"ok")
    assert await asking == 2


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


async def test_nobody_listens(child: FakeChild, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream._CONNECT_RETRIES_S", 0.05)
    child.stop_listening()

    asked: list[bool] = []
    with pytest.raises(UpstreamBroken) as broken:
        async with upstream.post(life_of(child), PATH, b"{}", on_asked=lambda: asked.append(True)):
            pass

    assert broken.value.how is Break.NOT_CONNECTED
    assert not asked


async def test_a_child_that_listens_a_moment_later_is_reached(upstream: Upstream) -> None:
    async with FakeChild() as child:
        child.stop_listening()
        life = life_of(child)

        async def client() -> int:
            async with upstream.post(life, PATH, b"{}") as exchange:
                return exchange.status

        asking = asyncio.create_task(client())
        await asyncio.sleep(0.05)
        await child.listen_again()
        await (await child.call()).answer(b"")
        assert await asking == 200


async def test_no_more_connecting_once_it_is_dead(child: FakeChild, upstream: Upstream) -> None:
    child.stop_listening()
    life = life_of(child)
    life.died.set_result(DEATH)
    began = asyncio.get_running_loop().time()

    with pytest.raises(UpstreamBroken):
        async with upstream.post(life, PATH, b"{}"):
            pass

    assert asyncio.get_running_loop().time() - began < 1


async def test_closed_before_an_answer(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> None:
        async with upstream.post(life_of(child), PATH, b"{}"):
            pass

    asking = asyncio.create_task(client())
    await (await child.call()).finish()
    with pytest.raises(UpstreamBroken) as broken:
        await asking
    assert broken.value.how is Break.CUT


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
    assert broken.value.how is Break.CUT


async def test_leaving_resets_the_connection(child: FakeChild, upstream: Upstream) -> None:
    """The child's very next write must fail, or it computes a whole prefill step for nobody."""
    asking = asyncio.create_task(leave_after_headers(child, upstream))
    call = await child.call()
    await call.start()
    await asking

    assert await call.was_reset()


async def test_how_it_ended_is_told_once(child: FakeChild, upstream: Upstream) -> None:
    told: list[Cut | None] = []

    async def ask(*, to_the_end: bool) -> None:
        async with upstream.post(life_of(child), PATH, b"{}", on_end=told.append) as exchange:
            while to_the_end and await exchange.read():
                pass

    for to_the_end in (True, False):
        asking = asyncio.create_task(ask(to_the_end=to_the_end))
        call = await child.call()
        await (call.answer(b"data: {}\n\n") if to_the_end else call.start())
        await asking
    ended, cut = told
    assert ended is None
    assert cut is not None
    assert cut.port > 0


async def test_a_child_is_not_left_before_it_has_begun_to_answer(
    child: FakeChild, upstream: Upstream
) -> None:
    """It would not notice, and generate everything for nobody."""
    told: list[Cut | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, told.append))
    call = await child.call()
    asking.cancel()
    await asyncio.wait((asking,))
    assert (asking.cancelled(), told) == (True, [])
    await call.start()
    assert await call.was_reset()
    assert isinstance(told[0], Cut)


async def test_a_dead_child_is_not_waited_for(child: FakeChild, upstream: Upstream) -> None:
    told: list[Cut | None] = []
    life = life_of(child)
    asking = asyncio.create_task(leave_after_headers(child, upstream, told.append, life))
    await child.call()
    asking.cancel()
    await asyncio.wait((asking,))
    life.died.set_result(DEATH)
    await eventually(lambda: told == [None])


async def test_a_request_that_found_no_connection_is_just_forgotten(
    child: FakeChild, upstream: Upstream
) -> None:
    child.stop_listening()
    told: list[Cut | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, told.append))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.wait((asking,))
    assert told == [None]


async def leave_after_headers(
    child: FakeChild, upstream: Upstream, on_end: OnEnd = lambda _: None, life: Any = None
) -> None:
    async with upstream.post(life or life_of(child), PATH, b"{}", on_end=on_end) as exchange:
        assert exchange.status == 200


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


async def test_twenty_at_once_all_get_through(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> bytes:
        async with upstream.post(life_of(child), PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = [asyncio.create_task(client()) for _ in range(20)]
    for _ in range(20):
        await (await child.call()).answer(b"ok")
    assert await asyncio.gather(*asking) == [b"ok"] * 20
