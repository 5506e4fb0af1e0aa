"""What the watch concludes from what it sees: a scripted server behind real sockets, without a process."""

from __future__ import annotations

import asyncio
import errno
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from supervisor.child.generation import Generation
from supervisor.child.process import Exit, Telemetry
from supervisor.child.watch import MAX_REFUSALS, Watch
from supervisor.lifecycle.causes import Symptom
from supervisor.machine import system
from tests.supervisor.conftest import until

TOKEN = {"usage": {"completion_tokens": 1}}


class Script:
    """A server that answers as scripted, and what the watch reported about it."""

    def __init__(self) -> None:
        self.health: list[int] = [200]  # the last one stays
        self.canary: list[int | str] = [200]
        self.asked = 0
        self.broken: list[tuple[Symptom, str]] = []
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.telemetry: Telemetry | None = None
        self.members: tuple[int, ...] = ()

    async def answer_health(self, request: web.Request) -> web.Response:
        return web.Response(status=next_of(self.health))

    async def answer_canary(self, request: web.Request) -> web.Response:
        self.asked += 1
        status = next_of(self.canary)
        if isinstance(status, str):
            await asyncio.Event().wait()
        return web.json_response(TOKEN if status == 200 else {"error": "no"}, status=int(status))

    def on_broken(self, symptom: Symptom, note: str) -> None:
        self.broken.append((symptom, note))

    def beat(self, beat: int) -> None:
        self.telemetry = Telemetry(0, 0, 0, beat, 0.0)


def next_of(told: list[Any]) -> Any:
    return told.pop(0) if len(told) > 1 else told[0]


Start = Callable[[], Awaitable[tuple[Script, Watch, Generation]]]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(system, "listens", lambda pid, port: True)
    async with aiohttp.ClientSession() as session:
        servers: list[TestServer] = []

        async def begin() -> tuple[Script, Watch, Generation]:
            script, app = Script(), web.Application()
            app.router.add_get("/health", script.answer_health)
            app.router.add_post("/v1/completions", script.answer_canary)
            servers.append(TestServer(app))
            await servers[-1].start_server()
            port = servers[-1].port
            assert port is not None
            watch = Watch(Seen(script), session, port, 0.2, script.on_broken)  # type: ignore[arg-type]
            return script, watch, Generation(1, port, lambda: None, lambda: None)

        yield begin
        for server in servers:
            await server.close()


class Seen:
    """The script as the watch sees a `Child`."""

    pid = 1

    def __init__(self, script: Script) -> None:
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._script, name)


async def test_the_first_token_is_what_counts(start: Start) -> None:
    script, watch, _ = await start()
    assert await watch.first_token() is True
    assert (script.asked, script.broken) == (1, [])


async def test_a_thread_that_died_while_loading(start: Start) -> None:
    script, watch, _ = await start()
    script.health = [200, 503]
    script.canary = [404]
    assert await watch.first_token() is False
    assert script.broken == [(Symptom.LOAD_FAILED, "")]


async def test_a_server_that_refuses_every_first_token(start: Start) -> None:
    script, watch, _ = await start()
    script.canary = [404]
    assert await watch.first_token() is False
    assert script.asked == MAX_REFUSALS
    assert script.broken == [(Symptom.LOAD_FAILED, 'mlxguard: first token refused: HTTP 404 {"error": "no"}')]


async def test_a_server_of_another_program_is_not_asked(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, watch, _ = await start()
    ours = iter((False, False, True))
    monkeypatch.setattr(system, "listens", lambda pid, port: next(ours))
    assert await watch.first_token() is True
    assert script.asked == 1


async def test_the_token_decides_where_the_system_does_not_tell_who_listens(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, watch, _ = await start()
    monkeypatch.setattr(system, "listens", lambda pid, port: None)
    assert await watch.first_token() is True


async def test_a_dead_thread_that_health_reports(start: Start) -> None:
    script, watch, generation = await start()
    script.health = [200, 503]  # it logs the death of the thread a moment before /health reports it
    await watch.examine(generation)
    assert script.broken == [(Symptom.THREAD_DEAD, "")]
    assert script.asked == 0


async def test_an_exit_is_reported_by_the_keeper_alone(start: Start) -> None:
    script, watch, generation = await start()
    script.exited.set_result(Exit(None, 9))
    await watch.examine(generation)
    assert (script.broken, script.asked) == ([], 0)


async def test_a_living_child_answers_its_canary(start: Start) -> None:
    script, watch, generation = await start()
    await watch.examine(generation)
    assert (script.broken, script.asked) == ([], 1)


async def test_a_silent_child_that_does_not_move_is_wedged(start: Start) -> None:
    script, watch, generation = await start()
    script.canary = ["silent"]
    script.beat(7)
    await watch.examine(generation)
    assert script.broken == [(Symptom.WEDGE, "")]


@pytest.mark.parametrize("sign", ["beat", "bytes", "exit"])
async def test_another_sign_of_activity_ends_the_wait_for_the_canary(start: Start, sign: str) -> None:
    script, watch, generation = await start()
    script.canary = ["silent"]
    script.beat(7)
    examination = asyncio.create_task(watch.examine(generation))
    assert await until(lambda: script.asked > 0)
    match sign:
        case "beat":
            script.beat(9)
        case "bytes":
            generation.progress()
        case "exit":
            script.exited.set_result(Exit(0, None))
    await examination
    assert script.broken == []


async def test_a_predicted_silence_is_no_proof_of_death(start: Start) -> None:
    script, watch, generation = await start()
    script.canary = ["silent"]
    generation.expect_silence(time.monotonic() + 60.0)
    await watch.examine(generation)
    assert script.broken == []


async def test_a_503_while_serving_is_the_end(start: Start) -> None:
    script, watch, generation = await start()
    script.health = [200, 503]
    await watch.serve(generation, stall_s=60.0)
    assert script.broken == [(Symptom.THREAD_DEAD, "")]


async def test_a_stall_is_forgiven_once_the_canary_is_answered(start: Start) -> None:
    script, watch, generation = await start()
    script.canary = [200, "silent"]
    script.beat(1)
    with generation.busy():
        await watch.serve(generation, stall_s=0.4)
    assert (script.asked, script.broken) == (2, [(Symptom.WEDGE, "")])


async def test_without_telemetry_cpu_time_is_the_beat(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    _, watch, generation = await start()
    used, now = [0.0], [100.0]
    monkeypatch.setattr(system, "cpu_seconds", lambda pid: used[0])
    monkeypatch.setattr("supervisor.child.watch.time.monotonic", lambda: now[0])
    beats = []
    for work in (0.0, 0.5, 0.5, 0.01, 0.0):
        now[0] += 0.5
        used[0] += work
        beats.append(watch._signs(generation).beat)
    assert [after - before for before, after in itertools.pairwise(beats)] == [1, 1, 0, 0]


async def test_a_child_that_could_not_be_asked_is_not_judged(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, watch, generation = await start()
    script.canary = ["silent"]

    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", fail)
    await watch.examine(generation)
    serving = asyncio.create_task(watch.serve(generation, stall_s=0.2))
    await asyncio.sleep(1.2)
    assert not serving.done()
    serving.cancel()
    assert script.broken == []
