"""Every waiter and every subscriber is told of each change once."""

from __future__ import annotations

import asyncio

from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.notifier import Notifier

CHANGE = Change(State.STARTING, State.READY, 1)


async def test_waiters_are_woken_and_subscribers_called_in_order() -> None:
    notifier, heard = Notifier(), list[tuple[str, Change]]()
    notifier.subscribe(lambda change: heard.append(("first", change)))
    notifier.subscribe(lambda change: heard.append(("second", change)))
    waiting = asyncio.create_task(notifier.wait())
    await asyncio.sleep(0)
    notifier.announce(CHANGE)
    assert heard == [], "soon, not at once"
    await waiting
    assert heard == [("first", CHANGE), ("second", CHANGE)]


async def test_a_new_wait_is_for_the_next_change() -> None:
    notifier = Notifier()
    notifier.announce(CHANGE)
    waiting = asyncio.create_task(notifier.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    notifier.announce(CHANGE)
    await waiting
