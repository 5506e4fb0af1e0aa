"""Whose prompt is counted next, and what becomes of turns that nobody waits for any more."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Unavailable
from proxy.prompt.turns import Asker, CountingTurns, Turn

BIG, SMALL = 500_000, 100


class Stand:
    """Takes turns, and notes in which order they were granted."""

    def __init__(self, most: int = 100, in_pipe: int = 1) -> None:
        self.turns = CountingTurns(most, in_pipe)
        self.order: list[str] = []
        self.held: list[Turn] = []

    def ask(self, name: str, client: str, size: int = SMALL) -> asyncio.Task[None]:
        async def take() -> None:
            turn = await self.turns.take(Asker(client, size))
            self.order.append(name)
            self.held.append(turn)
            turn.sent()

        return asyncio.create_task(take())

    async def run(self) -> list[str]:
        """Let the worker answer one after the other."""
        await asyncio.sleep(0)
        while self.held:
            self.held.pop(0).settled()
            await asyncio.sleep(0)
        assert len(self.turns) == 0
        return self.order


async def test_clients_take_turns() -> None:
    stand = Stand()
    tasks = [stand.ask(f"a{n}", "a") for n in range(4)] + [stand.ask("b0", "b"), stand.ask("c0", "c")]
    assert await stand.run() == ["a0", "b0", "c0", "a1", "a2", "a3"]
    await asyncio.gather(*tasks)


async def test_small_ones_come_first_within_a_bound() -> None:
    stand = Stand()
    tasks = [stand.ask("first", "a"), stand.ask("big", "a", BIG)]
    tasks += [stand.ask(f"small{n}", f"client{n % 3}") for n in range(30)]
    order = await stand.run()
    assert order.index("big") == 1 + 16
    await asyncio.gather(*tasks)


async def test_what_was_cancelled_while_it_waited_gets_no_turn() -> None:
    stand = Stand()
    first = stand.ask("first", "a")
    await asyncio.sleep(0)
    left = [stand.ask(f"left{n}", "a") for n in range(5)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    last = stand.ask("last", "b")
    assert await stand.run() == ["first", "last"]
    await asyncio.gather(first, last)


async def test_a_turn_lasts_until_the_worker_has_answered() -> None:
    """A worker cannot be interrupted: what it has is at work although its client has disconnected."""
    stand = Stand()
    await stand.ask("first", "a")
    second = stand.ask("second", "b")
    stand.held[0].left()
    await asyncio.sleep(0)
    assert stand.order == ["first"]
    stand.held.pop(0).settled()
    await second
    turn = stand.held.pop()
    turn.settled()
    turn.settled()
    turn.left()
    assert len(stand.turns) == 0


async def test_a_turn_that_never_reached_the_worker_ends_when_its_asker_leaves() -> None:
    turns = CountingTurns(10, 1)
    turn = await turns.take(Asker())
    turn.left()
    assert len(turns) == 0


async def test_a_cancellation_at_the_moment_of_the_grant_loses_no_turn() -> None:
    turns = CountingTurns(10, 1)
    turn = await turns.take(Asker())
    waiting = asyncio.create_task(turns.take(Asker()))
    await asyncio.sleep(0)
    turn.left()  # grants
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert len(turns) == 0
    (await turns.take(Asker())).left()


async def test_one_client_can_take_half_of_the_places_beside_others() -> None:
    stand = Stand(most=10)
    tasks = [stand.ask("b", "b"), stand.ask("b", "b"), *(stand.ask("a", "a") for _ in range(5))]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="overloaded"):
        await stand.turns.take(Asker("a"))
    tasks.append(stand.ask("b", "b"))
    await stand.run()
    await asyncio.gather(*tasks)
