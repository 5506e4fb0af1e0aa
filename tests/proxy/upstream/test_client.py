"""The HTTP client to the child, against one that misbehaves at exact moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import AbortedExchange
from tests.support.exchange_stand import DEATH, PATH, all_of, leave_after_headers, life_of
from tests.support.fake_child import FakeChild
from tests.support.relay_stand import eventually


@pytest.fixture
async def child() -> AsyncIterator[FakeChild]:
    async with FakeChild() as child:
        yield child


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.stop()


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


async def test_nobody_listens(child: FakeChild, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.client._CONNECT_RETRIES_S", 0.05)
    child.stop_listening()

    asked: list[bool] = []
    with pytest.raises(UpstreamBroken) as broken:
        async with upstream.post(life_of(child), PATH, b"{}", on_asked=lambda: asked.append(True)):
            pass

    assert broken.value.how is BreakKind.NOT_CONNECTED
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
    assert broken.value.how is BreakKind.CUT


async def test_a_child_is_not_left_before_it_has_begun_to_answer(
    child: FakeChild, upstream: Upstream
) -> None:
    """It would not notice, and generate everything for nobody."""
    told: list[AbortedExchange | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, told.append))
    call = await child.call()
    asking.cancel()
    await asyncio.wait((asking,))
    assert (asking.cancelled(), told) == (True, [])
    await call.start()
    assert await call.was_reset()
    assert isinstance(told[0], AbortedExchange)


async def test_a_dead_child_is_not_waited_for(child: FakeChild, upstream: Upstream) -> None:
    told: list[AbortedExchange | None] = []
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
    told: list[AbortedExchange | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, told.append))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.wait((asking,))
    assert told == [None]


async def test_twenty_at_once_all_get_through(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> bytes:
        async with upstream.post(life_of(child), PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = [asyncio.create_task(client()) for _ in range(20)]
    for _ in range(20):
        await (await child.call()).answer(b"ok")
    assert await asyncio.gather(*asking) == [b"ok"] * 20
