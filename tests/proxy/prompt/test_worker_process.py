"""The gateway's end of a worker, against small scripts that answer, hang and die as told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.prompt.worker_process import TokenizerRefused, Worker, WorkerDied, WorkerStalled

#: Answers each request with what it asks for; `hang`, `die` and `babble` are taken literally.
SCRIPT = """
import os, sys, time
from proxy.prompt import frames
out, told = sys.stdout.buffer, []
def requests():
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        yield from frame
for request in requests():
    match request["do"]:
        case "hang": time.sleep(60)
        case "die": os._exit(3)
        case "babble": out.write(b"\\0\\0\\0\\1{"); out.flush(); time.sleep(60)
        case "shout": sys.stderr.write("x" * 300_000 + "\\nlast words\\n"); sys.stderr.flush()
        case "raise": out.write(frames.encode({"id": request["id"], "error": {"kind": "K", "message": "m"}}))
    told += [request["do"]] * (request["id"] is None)
    if request["do"] == "told":
        out.write(frames.encode({"id": request["id"], "result": told}))
    elif request["do"] != "raise" and request["id"] is not None:
        out.write(frames.encode({"id": request["id"], "result": request["do"]}))
    out.flush()
"""

Spawn = Callable[[float], Awaitable[Worker]]


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    spawned: list[Worker] = []

    async def start(stall_s: float = 30.0) -> Worker:
        spawned.append(await Worker.spawn((sys.executable, "-c", SCRIPT), stall_s))
        return spawned[-1]

    yield start
    for worker in spawned:
        await worker.stop(0)


async def test_answers_find_their_requests(spawn: Spawn) -> None:
    worker = await spawn(30)
    assert await asyncio.gather(*(worker.ask({"do": str(n)}) for n in range(50))) == [
        str(n) for n in range(50)
    ]
    assert len(worker) == 0


async def test_what_it_raises_is_an_answer(spawn: Spawn) -> None:
    worker = await spawn(30)
    with pytest.raises(TokenizerRefused, match="m") as caught:
        await worker.ask({"do": "raise"})
    assert caught.value.kind == "K"
    assert worker.alive


async def test_what_is_told_arrives_before_what_is_asked_later(spawn: Spawn) -> None:
    worker = await spawn(30)
    worker.notify({"do": "a"})
    worker.notify({"do": "b"})
    assert await worker.ask({"do": "told"}) == ["a", "b"]
    worker.notify({"do": "c"})
    await asyncio.sleep(0.1)  # it goes by itself, too
    assert len(worker) == 0
    assert await worker.ask({"do": "told"}) == ["a", "b", "c"]


async def test_a_death_ends_all_that_is_pending(spawn: Spawn) -> None:
    worker = await spawn(30)
    outcomes = await asyncio.gather(
        worker.ask({"do": "die"}), worker.ask({"do": "x"}), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [WorkerDied, WorkerDied]
    with pytest.raises(WorkerDied):
        await worker.ask({"do": "x"})


async def test_a_hang_is_laid_to_the_oldest_request(spawn: Spawn) -> None:
    worker = await spawn(30)
    assert await worker.ask({"do": "ready"}) == "ready"
    worker.stall_s = 0.3
    outcomes = await asyncio.gather(
        *(worker.ask({"do": what}) for what in ("x", "hang", "y")), return_exceptions=True
    )
    assert outcomes[0] == "x"
    assert [type(outcome) for outcome in outcomes[1:]] == [WorkerStalled, WorkerDied]


async def test_new_requests_do_not_put_off_the_end_of_a_hang(spawn: Spawn) -> None:
    worker = await spawn(30)
    assert await worker.ask({"do": "ready"}) == "ready"
    worker.stall_s = 0.3
    hung = asyncio.create_task(worker.ask({"do": "hang"}))
    others = []
    while not hung.done():  # one every 0.1 s, for ever if need be
        others.append(asyncio.create_task(worker.ask({"do": "x"})))
        await asyncio.wait([hung], timeout=0.1)
        assert len(others) < 100
    assert isinstance(hung.exception(), WorkerStalled)
    assert {type(other) for other in await asyncio.gather(*others, return_exceptions=True)} == {WorkerDied}


async def test_what_is_no_frame_is_a_death(spawn: Spawn) -> None:
    worker = await spawn(30)
    with pytest.raises(WorkerDied):
        await worker.ask({"do": "babble"})
    assert not worker.alive


async def test_a_cancelled_request_is_forgotten_and_its_answer_skipped(spawn: Spawn) -> None:
    worker = await spawn(30)
    first, second = (asyncio.create_task(worker.ask({"do": what})) for what in ("first", "second"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "second"
    assert len(worker) == 0


async def test_long_lines_on_standard_error_stop_nothing(spawn: Spawn) -> None:
    worker = await spawn(30)
    assert await worker.ask({"do": "shout"}) == "shout"
    await worker.stop(5)
    assert worker.stderr_lines[-1] == "last words"


async def test_it_ends_in_its_own_time_or_by_force(spawn: Spawn) -> None:
    gentle, stuck = await spawn(30), await spawn(30)
    await asyncio.gather(gentle.ask({"do": "x"}), stuck.ask({"do": "x"}))
    pending = asyncio.create_task(stuck.ask({"do": "hang"}))
    await asyncio.sleep(0)
    await gentle.stop(10)
    await stuck.stop(0.1)
    with pytest.raises(WorkerDied):
        await pending
