"""News: everybody who waits or asked hears of each change once."""

from __future__ import annotations

import asyncio

from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.notifier import Notifier

CHANGE = Change(State.STARTING, State.READY, 1)


async def test_who_waits_is_woken_and_who_asked_is_called_in_order() -> None:
    news, heard = Notifier(), list[tuple[str, Change]]()
    news.subscribe(lambda change: heard.append(("first", change)))
    news.subscribe(lambda change: heard.append(("second", change)))
    waiting = asyncio.create_task(news.wait())
    await asyncio.sleep(0)
    news.tell(CHANGE)
    assert heard == [], "soon, not at once"
    await waiting
    assert heard == [("first", CHANGE), ("second", CHANGE)]


async def test_who_waits_again_waits_for_the_next_one() -> None:
    news = Notifier()
    news.tell(CHANGE)
    waiting = asyncio.create_task(news.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    news.tell(CHANGE)
    await waiting
