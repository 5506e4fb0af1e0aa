"""Saving in a thread: one file at a time, the newest content, and a full disk is no error."""

from __future__ import annotations

import threading

import pytest

from supervisor.aio import Tasks
from supervisor.state.saver import Saver


async def test_content_that_is_replaced_before_it_was_written_is_written_once() -> None:
    tasks, written = Tasks(), list[int]()
    saver = Saver(tasks)
    for number in range(5):
        saver.save("a", lambda number=number: written.append(number))  # type: ignore[misc]
    saver.save("b", lambda: written.append(10))
    await tasks.finish()
    assert written == [4, 10]
    saver.save("a", lambda: written.append(5))
    await tasks.finish()
    assert written == [4, 10, 5]


async def test_two_writes_never_overlap_and_the_last_wins() -> None:
    tasks, first, order = Tasks(), threading.Event(), list[str]()
    saver = Saver(tasks)

    def slow() -> None:
        first.wait(10)
        order.append("old")

    saver.save("a", slow)
    await tasks.start(_turn(), "turn")
    saver.save("a", lambda: order.append("new"))
    first.set()
    await tasks.finish()
    assert order == ["old", "new"]


async def _turn() -> None:
    """Give the saver its turn."""


async def test_a_full_disk_is_logged_and_the_next_file_is_written(caplog: pytest.LogCaptureFixture) -> None:
    tasks, written = Tasks(), list[int]()
    saver = Saver(tasks)

    def full() -> None:
        raise OSError("No space left on device")

    saver.save("a", full)
    saver.save("b", lambda: written.append(1))
    await tasks.finish()
    assert written == [1]
    assert [record.getMessage() for record in caplog.records] == ["state_not_saved"]
