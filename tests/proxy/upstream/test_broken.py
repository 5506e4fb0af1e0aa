"""How a failed exchange is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.client import Upstream
from tests.support.exchange_stand import PATH, life_of
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


async def test_nobody_listens(child: FakeChild, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.client._CONNECT_RETRIES_S", 0.05)
    child.stop_listening()

    asked: list[bool] = []
    with pytest.raises(UpstreamBroken) as broken:
        async with upstream.post(life_of(child), PATH, b"{}", on_asked=lambda: asked.append(True)):
            pass

    assert broken.value.how is BreakKind.NOT_CONNECTED
    assert not asked


async def test_closed_before_an_answer(child: FakeChild, upstream: Upstream) -> None:
    async def client() -> None:
        async with upstream.post(life_of(child), PATH, b"{}"):
            pass

    asking = asyncio.create_task(client())
    await (await child.call()).finish()
    with pytest.raises(UpstreamBroken) as broken:
        await asking
    assert broken.value.how is BreakKind.CUT
