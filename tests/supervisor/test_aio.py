"""Background tasks: waited for, and not silent when they fail."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.aio import Tasks


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
