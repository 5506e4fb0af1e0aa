"""The gate's shell: futures, cancelling and its one timer."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.budget import Budget
from proxy.core.learning import Correction, Corrections
from proxy.core.waiting import Ticket
from proxy.errors import Unavailable
from proxy.gate import Gate


def a_gate(running: int = 1, waiting: int = 10) -> Gate:
    return Gate(Budget(max_running=running), max_waiting=waiting, clock=asyncio.get_running_loop().time)


def ticket(id: str, *, within_s: float = 100.0) -> Ticket:
    now = asyncio.get_running_loop().time()
    return Ticket(id, "client", arrived=now, deadline=now + within_s)


async def hold(gate: Gate, id: str, release: asyncio.Event) -> None:
    with gate.enter(ticket(id)) as place:
        await place.granted()
        await release.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_runs_one_waits() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second = (asyncio.create_task(hold(gate, id, release)) for id in "ab")
    await turns()
    snapshot = gate.snapshot()
    assert (snapshot.running, snapshot.waiting, snapshot.budget.max_running) == (1, 1, 1)
    assert (gate.position("a"), gate.position("b")) == (None, 1)

    release.set()
    await asyncio.gather(first, second)

    assert (gate.snapshot().running, gate.snapshot().waiting) == (0, 0)


async def test_a_grant_at_once_does_not_let_others_run() -> None:
    """No await between reading the state and changing it."""
    gate = a_gate()
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "other")
    with gate.enter(ticket("a")) as place:
        await place.granted()
        assert ran == []


async def test_the_deadline_refuses() -> None:
    gate, release = a_gate(), asyncio.Event()
    holder = asyncio.create_task(hold(gate, "a", release))
    await turns()

    with pytest.raises(Unavailable) as refusal, gate.enter(ticket("b", within_s=0.01)) as place:
        await place.granted()

    assert refusal.value.reason == "queue_deadline"
    assert gate.snapshot().waiting == 0
    release.set()
    await holder


async def test_a_full_queue_refuses() -> None:
    gate = a_gate(running=0, waiting=0)
    with pytest.raises(Unavailable) as refusal, gate.enter(ticket("a")) as place:
        await place.granted()
    assert refusal.value.reason == "queue_full"


async def test_a_refusal_that_nobody_waits_for_is_no_fault() -> None:
    with a_gate(running=0, waiting=0).enter(ticket("a")):
        pass


async def test_who_is_cancelled_while_waiting_leaves() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second = (asyncio.create_task(hold(gate, id, release)) for id in "ab")
    await turns()
    second.cancel()
    await turns()
    assert gate.snapshot().waiting == 0
    release.set()
    await first


async def test_a_grant_to_one_who_was_just_cancelled_is_not_lost() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second, third = (asyncio.create_task(hold(gate, id, release)) for id in "abc")
    await turns()
    second.cancel()
    first.cancel()  # its place goes to the second, whose own leaving comes after
    await turns()
    assert (gate.snapshot().running, gate.snapshot().waiting) == (1, 0)
    release.set()
    await third


async def test_again_waits_for_another_grant() -> None:
    gate = a_gate()
    with gate.enter(ticket("a")) as place:
        await place.granted()
        gate.set_budget(Budget(max_running=0))
        place.again()
        assert place.position == 1
        waiting = asyncio.create_task(place.granted())
        await turns()
        assert not waiting.done()

        gate.set_budget(Budget(max_running=1))
        await waiting
        assert place.position is None


async def test_what_an_earlier_proxy_learned_of_the_law_is_gone_on_from() -> None:
    gate = a_gate()
    learned = Corrections(together=Correction(1.2, (), at=asyncio.get_running_loop().time()))
    gate.correct(learned)
    assert gate.corrections == learned
    assert gate.snapshot().corrections == pytest.approx((1.0, 1.2))
