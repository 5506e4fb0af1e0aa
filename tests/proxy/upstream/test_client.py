"""The HTTP client to the child, against one that misbehaves at exact moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.upstream.broken import UpstreamBroken
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


async def test_the_connection_is_kept_until_the_child_begins_to_answer(
    child: FakeChild, upstream: Upstream
) -> None:
    """It would not notice, and generate everything for nothing."""
    reports: list[AbortedExchange | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, reports.append))
    call = await child.call()
    asking.cancel()
    await asyncio.wait((asking,))
    assert (asking.cancelled(), reports) == (True, [])
    await call.start()
    assert await call.was_reset()
    assert isinstance(reports[0], AbortedExchange)


async def test_a_dead_child_is_not_waited_for(child: FakeChild, upstream: Upstream) -> None:
    reports: list[AbortedExchange | None] = []
    life = life_of(child)
    asking = asyncio.create_task(leave_after_headers(child, upstream, reports.append, life))
    await child.call()
    asking.cancel()
    await asyncio.wait((asking,))
    life.died.set_result(DEATH)
    await eventually(lambda: reports == [None])


async def test_a_request_that_found_no_connection_is_just_forgotten(
    child: FakeChild, upstream: Upstream
) -> None:
    child.stop_listening()
    reports: list[AbortedExchange | None] = []
    asking = asyncio.create_task(leave_after_headers(child, upstream, reports.append))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.wait((asking,))
    assert reports == [None]


async def test_twenty_at_once_all_get_through(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> bytes:
        async with upstream.post(life_of(child), PATH, b"{}") as exchange:
            return await all_of(exchange)

    asking = [asyncio.create_task(client()) for _ in range(20)]
    for _ in range(20):
        await (await child.call()).answer(b"ok")
    assert await asyncio.gather(*asking) == [b"ok"] * 20
