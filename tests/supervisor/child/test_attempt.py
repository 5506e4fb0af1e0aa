"""One attempt over the fake server, and the events that it reports."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from supervisor.aio import Tasks
from supervisor.child.attempt import Attempt
from supervisor.child.options import SupervisorOptions
from supervisor.child.process import Exit, Telemetry
from supervisor.lifecycle.causes import Cause, Symptom
from supervisor.lifecycle.state_machine import State
from tests.supervisor.conftest import fake_launch, tell, until


class Listener:
    """Notes the events of the attempt, in order."""

    def __init__(self) -> None:
        self.all: list[object] = []

    def on_first_token(self, attempt: Attempt) -> None:
        self.all.append("first token")

    def on_idle(self, attempt: Attempt) -> None:
        self.all.append("idle")

    def on_broken(self, attempt: Attempt, symptom: Symptom, note: str) -> None:
        self.all.append(symptom)

    def on_exit(self, attempt: Attempt, exit_: Exit) -> None:
        self.all.append(exit_)


class Stand:
    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.listener, self.tasks, self.pids = Listener(), Tasks(), list[int]()
        self.session = session
        options = SupervisorOptions(folder, canary_timeout_s=0.3)
        self.attempt = Attempt(7, options, self.listener, self.tasks)

    async def launch(self, *told: str) -> Attempt:
        await self.attempt.launch(fake_launch(*told), self.session)
        self.attempt.watch(self.pids.append)
        return self.attempt

    async def heard(self, what: object) -> bool:
        return await until(lambda: what in self.listener.all)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with aiohttp.ClientSession() as session:
        stand = Stand(tmp_path, session)
        yield stand
        stand.attempt.stop_watching()
        if stand.attempt.child is not None:
            stand.attempt.child.signal(signal.SIGKILL)
            await stand.attempt.child.exited
            await asyncio.sleep(0)  # its callbacks
        await stand.tasks.finish()


async def test_from_launch_to_exit(stand: Stand) -> None:
    attempt = await stand.launch()
    assert (attempt.generation, attempt.ready_since) == (None, None)
    assert await stand.heard("first token")
    assert attempt.generation is not None
    assert (attempt.generation.number, attempt.generation.port) == (7, attempt.port)
    assert stand.pids == [attempt.pid]
    assert attempt.memory_bytes() is not None
    with attempt.generation.busy():
        pass
    assert attempt.child is not None
    attempt.child.signal(signal.SIGTERM)
    assert await stand.heard(Exit(None, signal.SIGTERM))
    assert stand.listener.all == ["first token", "idle", Exit(None, signal.SIGTERM)]
    assert (attempt.child, attempt.pid, attempt.memory_bytes()) == (None, None, None)


async def test_a_connection_that_the_child_dropped_is_reported_to_the_generation(stand: Stand) -> None:
    attempt = await stand.launch()
    assert await stand.heard("first token")
    assert attempt.generation is not None
    noticed = attempt.generation.drop_noticed(43_730)
    attempt.transcript.feed(b"Exception occurred during processing of request from ('127.0.0.1', 43730)")
    assert noticed.done()
    assert attempt.child is not None
    assert attempt.generation.telemetry() is attempt.child.telemetry


async def test_a_death_is_told_to_requests_that_wait_for_a_response(stand: Stand) -> None:
    attempt = await stand.launch()
    assert await stand.heard("first token")
    assert attempt.generation is not None
    death = attempt.die(Symptom.WEDGE, State.READY, note="seen by the canary")
    assert attempt.generation.died.result() is death is attempt.death
    assert (death.generation, death.cause, death.last_lines[-1]) == (7, Cause.WEDGE, "seen by the canary")


async def test_the_last_burst_of_memory_counts_against_what_the_card_has(stand: Stand) -> None:
    attempt = await stand.launch()
    assert await stand.heard("first token")
    assert attempt.child is not None
    attempt.child.telemetry = Telemetry(37, 90, 5, 1, 0.0, card_free=2, card_total=100)
    attempt.die(Symptom.THREAD_DEAD, State.READY)
    facts = attempt.facts(())
    assert (facts.peak, facts.total, attempt.description()["card_total"]) == (90, 100, 100)
    last = attempt.history.last()
    assert last is not None
    assert (last.active, last.card_free) == (37, 2)


async def test_a_taken_port_matters_only_during_the_start(stand: Stand) -> None:
    attempt = await stand.launch()
    assert await stand.heard("first token")
    assert attempt.generation is not None
    await tell(attempt.generation, say="OSError: [Errno 98] Address already in use")
    assert await until(lambda: attempt.transcript.lines != ())
    assert Symptom.PORT_TAKEN not in stand.listener.all


async def test_a_taken_port_during_the_start(stand: Stand) -> None:
    await stand.launch("say=OSError: [Errno 98] Address already in use", "start=60")
    assert await stand.heard(Symptom.PORT_TAKEN)


async def test_concurrent_callers_share_one_examination(stand: Stand) -> None:
    attempt = await stand.launch()
    assert await stand.heard("first token")
    first = attempt.examine()
    assert attempt.examine() is first
    await first
    assert attempt.examine() is not first


POSTED = '127.0.0.1 - - [30/Nov/2026 12:00:00] "POST /v1/chat/completions HTTP/1.0" 200 -'


async def test_a_request_that_the_child_answers_and_nobody_here_sent_is_counted(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    """The child's port is open to every program of this machine."""
    attempt = await stand.launch()
    assert await stand.heard("first token")
    assert attempt.generation is not None
    attempt.transcript.feed(POSTED.encode())  # the canary's
    attempt.generation.posts += 2
    attempt.transcript.feed(POSTED.encode())
    attempt.transcript.feed(b'127.0.0.1 - - [30/Nov/2026 12:00:00] "GET /v1/models HTTP/1.1" 200 -')
    assert attempt.unaccounted == 0, "one of ours has not been answered yet"
    for _ in range(3):
        attempt.transcript.feed(POSTED.encode())
    assert attempt.unaccounted == 2
    assert [record.getMessage() for record in caplog.records].count("unaccounted_request") == 1
    assert attempt.die(Symptom.THREAD_DEAD, State.READY).unaccounted == 2
