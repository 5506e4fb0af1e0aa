"""An alarm rings once, for what was set last."""

from __future__ import annotations

import asyncio

from supervisor.aio import Timer


async def test_it_rings_for_what_was_set_last_and_not_when_cleared() -> None:
    alarm, other, rung = Timer(), Timer(), list[str]()
    done = asyncio.Event()
    alarm.set(0, lambda: rung.append("first"))
    alarm.set(-5, lambda: rung.append("second"))
    other.set(0, lambda: rung.append("cleared"))
    other.clear()
    other.clear()
    asyncio.get_running_loop().call_later(0.001, done.set)
    await done.wait()
    assert rung == ["second"]
