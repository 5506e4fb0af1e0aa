"""Exchanges with a fake child: what the tests of the client to the child stand on."""

from __future__ import annotations

from typing import Any

from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange, OnEnd
from supervisor.child.generation import Death, Generation
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from tests.support.fake_child import FakeChild

PATH = "/v1/completions"
DEATH = Death(1, Cause.UNKNOWN, "it died", "", None, None, (), State.READY)


def life_of(child: FakeChild) -> Generation:
    return Generation(1, child.port, lambda: None, lambda: None)


async def all_of(exchange: Exchange) -> bytes:
    found = bytearray()
    while data := await exchange.read():
        found += data
    return bytes(found)


async def leave_after_headers(
    child: FakeChild, upstream: Upstream, on_end: OnEnd = lambda _: None, life: Any = None
) -> None:
    async with upstream.post(life or life_of(child), PATH, b"{}", on_end=on_end) as exchange:
        assert exchange.status == 200
