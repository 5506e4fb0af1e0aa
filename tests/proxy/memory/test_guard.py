"""The guard over a real gate: it holds at the soft mark, ends at the hard one, and goes on after a bug."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.memory.pressure import LOOKS, STALE_S, Mark
from supervisor.lifecycle.state_machine import State
from tests.support.memory_stand import CEILING, WEIGHTS, Stand
from tests.support.relay_stand import eventually


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand = Stand()
    yield stand
    stand.slots.close()


async def test_at_the_soft_mark_no_request_is_admitted(stand: Stand) -> None:
    stand.run("a", 100)
    stand.active = CEILING - 10
    stand.look()
    assert stand.gate.position(stand.wait_for_slot("b", 10).id) == 1
    assert stand.guard.snapshot().mark is Mark.SOFT
    stand.active = WEIGHTS + 100
    stand.look()
    assert stand.gate.snapshot().running == 2


async def test_stale_telemetry_holds_the_gate_until_it_is_fresh_again(stand: Stand) -> None:
    stand.silent = True
    stand.look(round(STALE_S * 10) + 2)
    assert stand.gate.position(stand.wait_for_slot("a", 10).id) == 1
    stand.silent = False
    stand.look()
    assert stand.gate.snapshot().running == 1
    assert not stand.given_up


async def test_at_the_hard_mark_the_least_costly_request_ends_once(stand: Stand) -> None:
    stand.run("seen", 200, sent=True)
    stand.run("unseen", 200)
    stand.active = CEILING + 1
    stand.look(LOOKS)
    assert stand.given_up == ["unseen"]
    stand.look(5)
    assert stand.given_up == ["unseen"], "what was ended takes a moment to go"


async def test_a_bug_does_not_end_the_watch(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.memory.guard._AFTER_BUG_S", 0)
    monkeypatch.setattr("proxy.memory.guard.INTERVAL_S", 0)
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        raise ZeroDivisionError

    monkeypatch.setattr(stand.guard, "look", look)
    looking = asyncio.create_task(stand.guard.run())
    await eventually(lambda: len(looks) > 2)
    looking.cancel()
    await asyncio.wait([looking])


async def test_a_new_generation_retains_nothing(stand: Stand) -> None:
    stand.active = WEIGHTS + 800
    stand.look(2)
    assert stand.gate.snapshot().retained == 800
    stand.state, stand.generation = State.STARTING, 2
    stand.look()
    assert stand.gate.snapshot().retained == 0


async def test_it_looks_until_cancelled_and_leaves_nothing_behind(stand: Stand) -> None:
    looking = asyncio.create_task(stand.guard.run())
    await eventually(lambda: stand.guard.snapshot().actions["reclaims"] == 0)
    looking.cancel()
    await asyncio.wait([looking])
    assert looking.cancelled()
