"""Background tasks are waited for and their failures logged; a timer calls once."""

from __future__ import annotations

import asyncio

import pytest

from supervisor import aio
from supervisor.aio import Tasks, Timer


async def test_finish_waits_for_tasks_and_for_those_that_they_start() -> None:
    tasks, done = Tasks(), []

    async def second() -> None:
        await asyncio.sleep(0)
        done.append(2)

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second(), "second")
        done.append(1)

    tasks.start(first(), "first")
    await tasks.finish()
    assert done == [1, 2]
    await tasks.finish()


async def test_all_can_be_cancelled() -> None:
    tasks = Tasks()
    endless = [tasks.start(asyncio.sleep(1000), str(number)) for number in range(2)]
    tasks.cancel()
    await tasks.finish()
    assert all(task.cancelled() for task in endless)


async def test_a_failure_is_logged_and_a_cancellation_is_not(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise ValueError("why")

    async def hang() -> None:
        await asyncio.Event().wait()

    tasks.start(fail(), "failing")
    tasks.start(hang(), "hanging").cancel()
    await tasks.finish()
    (record,) = caplog.records
    assert record.getMessage() == "task_failed"
    assert record.__dict__["task"] == "failing"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_timer_calls_what_was_set_last_and_nothing_once_cleared() -> None:
    timer, other, called = Timer(), Timer(), list[str]()
    done = asyncio.Event()
    timer.set(0, lambda: called.append("first"))
    timer.set(-5, lambda: called.append("second"))
    other.set(0, lambda: called.append("cleared"))
    other.clear()
    other.clear()
    asyncio.get_running_loop().call_later(0.001, done.set)
    await done.wait()
    assert called == ["second"]


async def test_a_failure_is_handed_to_the_owner() -> None:
    tasks, told = Tasks(), list[BaseException]()

    async def fail() -> None:
        raise ValueError("why")

    tasks.start(fail(), "failing", told.append)
    tasks.start(asyncio.sleep(1000), "cancelled", told.append).cancel()
    await tasks.finish()
    assert [str(error) for error in told] == ["why"]


async def test_work_that_goes_on_for_ever_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_AGAIN_S", 0.0)
    tasks, starts = Tasks(), list[int]()

    async def work() -> None:
        starts.append(len(starts))
        if len(starts) < 3:
            raise OSError("no descriptor")
        await asyncio.sleep(1000)

    task = tasks.repeat(work, "watch")
    while len(starts) < 3:
        await asyncio.sleep(0)
    assert not task.done()
    tasks.cancel()
    await tasks.finish()
