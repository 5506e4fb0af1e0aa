"""The relay as transcripts: what the child does, what the client sees, byte by byte."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy import upstream
from proxy.core import silence
from proxy.core.budget import Budget
from proxy.gate import Gate
from proxy.job import Job, Outcome, Stage
from proxy.relay import RelayOptions
from proxy.stalls import Blind
from supervisor.causes import Cause
from tests.core import child_events as child_says
from tests.relay_stand import Stand, a_stand, events_of, eventually, text_of


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


# --- the ordinary case ---


async def test_a_stream(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    assert call.path == "/v1/chat/completions"
    assert call.json["stream"] is True
    assert call.json["stream_options"] == {"include_usage": True}
    await call.answer(child_says.chat_stream("Hel", "lo"))

    response = await asking
    stream = await response.read()

    assert response.status == 200
    assert response.content_type == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["x-mlxguard-prompt-tokens"] == "7"
    assert response.headers["x-mlxguard-attempts"] == "1"
    assert text_of(stream) == "Hello"
    assert {event["id"] for event in events_of(stream)} == {"chatcmpl-0"}
    assert stream.endswith(b"data: [DONE]\n\n")
    job = stand.jobs[0]
    assert (job.outcome, job.stage) == (Outcome.OK, Stage.ENDED)
    assert job.completion_tokens == 3
    assert job.usage
    assert job.usage.cached_tokens == 2
    assert job.first_content_s is not None


class Told(Blind):
    """What the relay tells of its requests, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def foresee(self, job: Job) -> int:
        self.steps.append("foresee")
        return await super().foresee(job)

    async def asking(self, job: Job) -> None:
        self.steps.append("asking")

    @contextmanager
    def asked(self, job: Job) -> Iterator[None]:
        self.steps.append("asked")
        yield
        self.steps.append("left")

    def answering(self, job: Job) -> None:
        self.steps.append("answering")

    def read(self, job: Job) -> None:
        self.steps.append("read")

    def ended(self, job: Job, *, complete: bool) -> None:
        self.steps.append(f"ended {complete}")


async def test_a_request_is_followed_step_by_step(stand: Stand) -> None:
    told = stand.foresight = Told()
    asking = stand.ask(stream=True)
    await (await stand.child.call()).answer(child_says.chat_stream("Hel", "lo"))
    await (await asking).read()
    assert told.steps == ["foresee", "asking", "asked", "answering", "read", "left", "ended True"]


async def test_what_the_child_refuses_ends_incomplete(stand: Stand) -> None:
    told = stand.foresight = Told()
    asking = stand.ask()
    await (await stand.child.call()).refuse(400, "no")
    assert (await asking).status == 400
    assert told.steps[-1] == "ended False"


async def test_a_whole_answer(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    assert call.json["stream"] is True, "so that its generation can be stopped"
    await call.answer(b": keepalive 3/7\n\n" + child_says.chat_stream("Hel", "lo"))

    response = await asking
    body = await response.json()

    assert response.status == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["prompt_tokens"] == 7
    assert response.headers["x-mlxguard-queue-ms"] == "0"


async def test_log_probabilities_are_asked_for_unstreamed(stand: Stand) -> None:
    asking = stand.ask(logprobs=True)
    call = await stand.child.call()
    assert call.json["stream"] is False
    assert call.json["logprobs"] is True
    counts = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    body = json.dumps({**child_says.head(), "choices": [choice], "usage": counts}).encode()
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await call.finish()

    answer = await (await asking).json()

    assert answer["id"] == "chatcmpl-0"
    assert answer["choices"][0]["message"]["content"] == "x"


async def test_an_answer_without_any_content_is_complete(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    await (await stand.child.call()).answer(child_says.chat_stream())

    stream = await (await asking).read()

    assert events_of(stream)[0]["choices"][0]["finish_reason"] == "stop"
    assert stream.endswith(b"data: [DONE]\n\n")
    assert stand.jobs[0].outcome is Outcome.OK


async def test_no_status_before_content(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(b": keepalive 3/7\n\n" + child_says.delta() + child_says.delta(content=""))
    await eventually(lambda: stand.jobs[0].seen is not None and stand.jobs[0].seen.events == 2)
    assert not asking.done()
    assert stand.jobs[0].summary()["prefill"] == (3, 7)

    await call.send(child_says.delta(content="x"))

    assert (await asking).status == 200
    await call.send(child_says.DONE)
    assert text_of(await (await asking).read()) == "x"


async def test_events_of_one_read_leave_in_one_write(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    write = web.StreamResponse.write

    async def recorded(self: web.StreamResponse, data: Any) -> None:
        writes.append(bytes(data))
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", recorded)
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(b"".join(child_says.delta(content=f"{number} ") for number in range(100)))
    response = await asking
    await response.content.readexactly(10)
    assert len(writes) == 1
    assert writes[0].count(b"\n\n") == 100

    await call.send(child_says.delta(content="next"))
    await eventually(lambda: len(writes) == 2)
    await call.send(child_says.DONE)
    await response.read()


async def test_a_single_event_of_two_megabytes(stand: Stand) -> None:
    arguments = json.dumps({"content": "x" * 2_000_000})
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.answer(child_says.delta(tool_calls=[child_says.tool_call("w", arguments)]) + child_says.DONE)

    (event,) = events_of(await (await asking).read())

    assert event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == arguments


# --- breaks ---


@pytest.mark.parametrize("stream", [True, False])
async def test_a_death_before_content_is_not_noticed(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    first = await stand.child.call()
    await first.start()
    await first.send(b": keepalive 3/7\n\n" + child_says.delta(run="first"))
    stand.supervisor.down()
    first.reset()
    await eventually(lambda: stand.jobs[0].stage is Stage.STARTING)
    assert not asking.done()

    stand.supervisor.up(stand.child)
    second = await stand.child.call()
    assert second.body == first.body
    await second.answer(child_says.chat_stream("Hello", run="second"))
    response = await asking
    body = await response.read()

    assert response.status == 200
    assert response.headers["x-mlxguard-attempts"] == "2"
    assert b"Hello" in body
    assert b"first" not in body
    assert b"second" not in body
    assert stand.jobs[0].generation == 2


async def test_a_non_streaming_client_does_not_notice_a_late_death(stand: Stand) -> None:
    asking = stand.ask()
    first = await stand.child.call()
    await first.start()
    await first.send(child_says.delta(content="half of"))
    stand.supervisor.down()
    await first.finish()

    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_says.chat_stream("whole"))

    assert (await (await asking).json())["choices"][0]["message"]["content"] == "whole"


async def test_a_death_after_content_ends_the_stream_by_contract(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.delta(content="half"))
    response = await asking
    stand.supervisor.down()
    await call.finish()

    stream = await response.read()

    *_, error, done, end = stream.split(b"\n\n")
    assert text_of(stream[: stream.index(b'data: {"error"')]) == "half"
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "503"
    assert (done, end) == (b"data: [DONE]", b"")
    assert (stand.jobs[0].outcome, stand.jobs[0].reason) == (Outcome.CUT, "child_died")


@pytest.mark.parametrize("stream", [True, False])
async def test_three_deaths_are_one_too_many(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    for _ in range(3):
        call = await stand.child.call()
        stand.supervisor.down()
        await call.finish()
        stand.supervisor.up(stand.child)

    response = await asking

    assert response.status == 503
    assert response.headers["Retry-After"] == "10"
    assert response.headers["x-mlxguard-attempts"] == "3"
    assert stand.jobs[0].outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("said", [b"", child_says.delta(), child_says.delta(content="x"), b"data: {\n\n"])
async def test_a_broken_answer_of_a_living_child(stand: Stand, stream: bool, said: bytes) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.answer(said)

    response = await asking
    body = await response.read()

    if response.status == 200:
        assert b"content" in said
        assert (
            json.loads(body.split(b"\n\n")[-3].removeprefix(b"data: "))["error"]["code"] == "upstream_error"
        )
        assert body.endswith(b"data: [DONE]\n\n")
    else:
        assert response.status == 500
        assert json.loads(body)["error"]["code"] == "upstream_error"
    assert stand.jobs[0].outcome is Outcome.FAILED
    assert stand.supervisor.judged == 1


async def test_a_connection_closed_without_an_answer_by_a_living_child(stand: Stand) -> None:
    asking = stand.ask()
    await (await stand.child.call()).finish()
    assert (await asking).status == 500


@pytest.mark.parametrize(("status", "judged"), [(400, 0), (404, 1)])
async def test_an_error_of_a_living_child_is_the_clients_fault(
    stand: Stand, status: int, judged: int
) -> None:
    asking = stand.ask(stream=True)
    await (await stand.child.call()).refuse(status, "roles must alternate")

    response = await asking

    assert response.status == 400
    error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith("roles must alternate")
    assert stand.supervisor.judged == judged
    assert stand.jobs[0].outcome is Outcome.INVALID


async def test_a_break_is_logged_without_the_childs_text(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    asking = stand.ask()
    await (await stand.child.call()).refuse(404, "the user said: secret")
    assert (await asking).status == 400

    (record,) = [record for record in caplog.records if record.name == "mlxguard.relay"]
    fields = vars(record)
    assert (fields["how"], fields["verdict"], fields["generation"]) == ("rejected", "invalid", 1)
    assert "secret" not in str(fields)


async def test_a_404_of_a_dead_generation_thread_is_a_death(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    stand.supervisor.down()
    await call.refuse(404, "generation thread died")
    stand.supervisor.up(stand.child)

    await (await stand.child.call()).answer(child_says.chat_stream("x"))

    assert (await asking).status == 200


async def test_a_silent_dead_child_is_not_waited_for(stand: Stand) -> None:
    """A stopped or wedged process keeps its sockets open."""
    asking = stand.ask()
    call = await stand.child.call()
    await call.start()
    await eventually(lambda: stand.jobs[0].stage is Stage.PREFILL)
    stand.supervisor.down()
    await call.dropped()
    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_says.chat_stream("x"))
    assert (await asking).status == 200


async def test_a_death_before_the_childs_headers(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    stand.supervisor.down()
    await call.dropped()
    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_says.chat_stream("x"))
    assert (await asking).status == 200


async def test_a_child_that_died_behind_a_whole_answer(stand: Stand) -> None:
    """Its last words were on their way: the answer is complete, whatever became of the child."""
    asking = stand.ask()
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.chat_stream("x"))
    stand.supervisor.down()
    assert (await asking).status == 200


async def test_replays_run_in_the_order_of_arrival_before_new_requests(stand: Stand) -> None:
    stand.gate.set_budget(Budget(max_running=2))
    asking = [stand.ask(max_tokens=number) for number in range(2)]
    calls = [await stand.child.call() for _ in range(2)]
    asking += [stand.ask(max_tokens=number) for number in (2, 3)]
    await eventually(lambda: stand.gate.snapshot().waiting == 2)
    stand.supervisor.down()
    for call in reversed(calls):
        await call.finish()
    await eventually(lambda: all(job.stage is Stage.STARTING for job in stand.jobs[:2]))
    assert stand.gate.snapshot().waiting == 2

    stand.supervisor.up(stand.child)
    for _ in range(4):
        await (await stand.child.call()).answer(child_says.chat_stream("x"))

    assert [(await each).status for each in asking] == [200] * 4
    assert [job.answer.attempts for job in stand.jobs] == [2, 2, 1, 1]


# --- waiting ---


async def test_a_failed_child_is_told_at_once(stand: Stand) -> None:
    stand.supervisor.down()
    stand.supervisor.give_up()

    response = await stand.ask()

    assert response.status == 503
    assert response.headers["x-should-retry"] == "false"
    assert stand.jobs[0].reason == "restart_failed"


async def test_the_deadline_ends_waiting_for_a_restart(stand: Stand) -> None:
    stand.supervisor.down()
    stand.max_wait_s = 0.02

    response = await stand.ask(stream=True)

    assert response.status == 503
    assert stand.jobs[0].reason == "not_ready"


async def test_the_deadline_of_a_held_stream_ends_it_by_contract(stand: Stand) -> None:
    stand.supervisor.down()
    stand.options = RelayOptions(hold_grace_s=0.01, keepalive_s=0.01)
    stand.max_wait_s = 0.1

    response = await stand.ask(stream=True)
    stream = await response.read()

    assert response.status == 200
    assert stream.startswith(b": starting\n\n: starting\n\n")
    *_, error, done, _ = stream.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "503"
    assert done == b"data: [DONE]"
    assert stand.jobs[0].outcome is Outcome.UNAVAILABLE


async def test_a_full_queue(stand: Stand) -> None:
    stand.gate = Gate(Budget(max_running=1), max_waiting=0)
    asking = stand.ask()
    call = await stand.child.call()

    response = await stand.ask(stream=True)

    assert response.status == 503
    assert stand.jobs[1].reason == "queue_full"
    await call.answer(child_says.chat_stream("x"))
    assert (await asking).status == 200


async def test_a_held_stream_tells_where_it_is(stand: Stand) -> None:
    stand.options = RelayOptions(hold_grace_s=0.0, keepalive_s=0.005)
    stand.gate.set_budget(Budget(max_running=1))
    asking = stand.ask()
    call = await stand.child.call()
    held = await stand.ask(stream=True)
    assert await held.content.readline() == b": queued position=1\n"
    await call.answer(child_says.chat_stream("x"))
    call = await stand.child.call()
    await call.start()
    await call.send(b": keepalive 512/2048\n\n")
    await read_until(held, b": prefill 512/2048\n")
    stand.supervisor.down()
    await call.finish()
    await read_until(held, b": restarting\n")
    stand.supervisor.up(stand.child)
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.delta(content="Hel"))
    await read_until(held, b": decode\n")  # a tool call is being generated: the child says nothing
    await call.send(child_says.delta(content="lo") + child_says.DONE)
    rest = await held.read()

    assert text_of(rest) == "lo"
    assert (await asking).status == 200


async def read_until(response: aiohttp.ClientResponse, line: bytes) -> None:
    async with asyncio.timeout(10):
        while await response.content.readline() != line:
            pass


async def test_a_long_silence_gets_empty_events(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "EMPTY_EVENT_EVERY_S", 0.02)
    stand.options = RelayOptions(hold_grace_s=0.0, keepalive_s=0.005)
    stand.supervisor.down()
    held = await stand.ask(stream=True)

    await read_until(held, stand.jobs[0].answer.empty_event().removesuffix(b"\n"))

    held.close()


# --- clients that leave, clients that are slow ---


@pytest.mark.parametrize("stream", [True, False])
async def test_the_child_is_dropped_when_the_client_leaves(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.delta(content="x"))
    await eventually(lambda: stand.jobs[0].stage is Stage.DECODE)
    if asking.done():
        (await asking).close()
    else:
        asking.cancel()
    left = asyncio.get_running_loop().time()

    await call.dropped()

    assert asyncio.get_running_loop().time() - left < 0.1
    await eventually(lambda: stand.jobs[0].stage is Stage.ENDED)
    assert stand.jobs[0].outcome is Outcome.CLIENT_GONE
    await eventually(lambda: stand.gate.snapshot().running == 0)


async def test_a_child_that_has_not_begun_to_answer_is_dropped_when_it_does(stand: Stand) -> None:
    """Before that it would not notice, and generate everything; the place is kept meanwhile."""
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    asking.cancel()
    await eventually(lambda: stand.jobs[0].stage is Stage.ENDED)
    snapshot = stand.gate.snapshot()
    assert (snapshot.running, snapshot.leaving) == (1, 1)
    await call.start()
    assert await call.was_reset()
    await eventually(lambda: stand.gate.snapshot().running == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_waiting_client_that_leaves_leaves_the_queue(stand: Stand, stream: bool) -> None:
    stand.gate.set_budget(Budget(max_running=0))
    asking = stand.ask(stream=stream)
    await eventually(lambda: stand.gate.snapshot().waiting == 1)

    asking.cancel()

    await eventually(lambda: stand.gate.snapshot().waiting == 0)
    await eventually(lambda: stand.jobs[0].outcome is Outcome.CLIENT_GONE)


async def test_a_client_that_left_is_not_replayed(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    stand.supervisor.down()
    await call.finish()
    await eventually(lambda: stand.jobs[0].stage is Stage.STARTING)
    asking.cancel()
    await eventually(lambda: stand.jobs[0].stage is Stage.ENDED)

    stand.supervisor.up(stand.child)
    other = stand.ask(max_tokens=99)
    call = await stand.child.call()
    await call.answer(child_says.chat_stream("x"))

    assert (await other).status == 200
    assert [job.answer.attempts for job in stand.jobs] == [1, 1]


# --- suspects ---


async def test_poison_runs_alone_and_is_refused_after_its_second_crash(stand: Stand) -> None:
    """The innocent in its batch is replayed first, in company of whoever comes, and is never blamed."""
    poison = stand.ask(sampling={"seed": 1})
    first = await stand.child.call()
    innocent = stand.ask(sampling={"seed": 2})
    second = await stand.child.call()
    await second.start()
    await second.send(child_says.delta(content="Hel"))
    await eventually(lambda: stand.jobs[1].stage is Stage.DECODE)
    stand.crash()
    await first.finish()
    await second.finish()
    stand.supervisor.up(stand.child)

    again = await stand.child.call()
    assert again.json["seed"] == 2, "the innocent first"
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await again.answer(child_says.chat_stream("fine"))
    assert (await innocent).status == 200

    alone = await stand.child.call()
    assert alone.json["seed"] == 1
    newcomer = stand.ask(sampling={"seed": 3})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    stand.crash()
    await alone.finish()
    stand.supervisor.up(stand.child)

    refusal = await poison
    assert refusal.status == 400
    assert refusal.headers["x-should-retry"] == "false"
    assert (await refusal.json())["error"]["code"] == "quarantined"
    assert stand.jobs[0].reason == "quarantined"
    await (await stand.child.call()).answer(child_says.chat_stream("x"))
    assert (await newcomer).status == 200
    assert (await stand.ask(sampling={"seed": 1})).status == 400, "and without asking the child"


async def test_a_memory_killer_is_told_a_size_that_is_safe(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    for _ in range(2):
        call = await stand.child.call()
        stand.crash(Cause.METAL_OOM)
        await call.finish()
        stand.supervisor.up(stand.child)
    refusal = await asking
    assert refusal.status == 400
    error = (await refusal.json())["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("prompt is too long: 7 tokens > 3 maximum")


async def test_a_held_stream_that_is_sentenced_ends_by_contract(stand: Stand) -> None:
    stand.options = RelayOptions(hold_grace_s=0.0, keepalive_s=0.005)
    held = await stand.ask(stream=True)
    for _ in range(2):
        call = await stand.child.call()
        stand.crash()
        await call.finish()
        stand.supervisor.up(stand.child)
    stream = await held.read()
    assert events_of(stream)[-1]["error"]["code"] == "quarantined"
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_who_is_sentenced_at_its_last_try_is_told_so(stand: Stand) -> None:
    asking = stand.ask()
    for cause in (Cause.SEGFAULT, Cause.WEDGE, Cause.ABORTED):
        call = await stand.child.call()
        stand.crash(cause)
        await call.finish()
        stand.supervisor.up(stand.child)
    assert (await (await asking).json())["error"]["code"] == "quarantined"


async def test_what_somebody_did_is_nobodys_fault(stand: Stand) -> None:
    asking = stand.ask()
    for _ in range(2):
        call = await stand.child.call()
        stand.inquest.hold(dataclasses.replace(stand.supervisor.down(), outside=True))
        await call.finish()
        stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_says.chat_stream("x"))
    assert (await asking).status == 200


async def test_others_may_join_a_suspect_whose_first_token_has_come(stand: Stand) -> None:
    asking = stand.ask(sampling={"seed": 1})
    call = await stand.child.call()
    stand.crash()
    await call.finish()
    stand.supervisor.up(stand.child)
    call = await stand.child.call()
    other = stand.ask(sampling={"seed": 2})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await call.start()
    await call.send(child_says.delta(content="x"))
    await (await stand.child.call()).answer(child_says.chat_stream("y"))
    assert (await other).status == 200
    await call.send(child_says.DONE)
    await call.finish()
    assert (await asking).status == 200


async def test_a_suspect_of_decode_is_alone_to_its_end(stand: Stand) -> None:
    asking = stand.ask(sampling={"seed": 1})
    for last in (False, True):
        call = await stand.child.call()
        await call.start()
        await call.send(child_says.delta(content="x"))
        await eventually(lambda: stand.jobs[0].stage is Stage.DECODE)
        if not last:
            stand.crash()
            await call.finish()
            stand.supervisor.up(stand.child)
    other = stand.ask(sampling={"seed": 2})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await call.send(child_says.DONE)
    await call.finish()
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_says.chat_stream("y"))
    assert (await other).status == 200


async def test_a_twin_that_waited_is_not_run_beside_others(stand: Stand) -> None:
    """It entered the queue before its fingerprint was suspected."""
    stand.gate = Gate(Budget(max_running=2), max_waiting=8)
    asking = [stand.ask(sampling={"seed": seed}) for seed in (1, 1, 1)]
    first, second = await stand.child.call(), await stand.child.call()
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    stand.crash()
    await first.finish()
    await second.finish()
    stand.supervisor.up(stand.child)
    for _ in asking:
        call = await stand.child.call()
        assert stand.gate.snapshot().running == 1
        await call.answer(child_says.chat_stream("x"))
        await eventually(lambda: stand.gate.snapshot().running <= 1)
    assert [(await each).status for each in asking] == [200, 200, 200]


async def test_who_endured_two_deaths_is_alone_at_its_last_try(stand: Stand) -> None:
    asking = stand.ask(sampling={"seed": 1})
    for _ in range(2):
        call = await stand.child.call()
        stand.supervisor.down()
        await call.finish()
        stand.supervisor.up(stand.child)
    call = await stand.child.call()
    other = stand.ask(sampling={"seed": 2})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await call.answer(child_says.chat_stream("x"))
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_says.chat_stream("y"))
    assert (await other).status == 200


# --- an administrator ---


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_request_ends_by_contract_and_leaves_the_child(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.start()
    assert stand.registry.cancel("chatcmpl-0")
    await call.dropped()
    answer = await asking
    assert answer.status == 503
    assert answer.headers["x-should-retry"] == "false"
    assert (await answer.json())["error"]["code"] == "cancelled"
    assert stand.jobs[0].outcome is Outcome.CANCELLED


async def test_a_stream_that_is_cancelled_after_content(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.delta(content="x"))
    answer = await asking
    assert stand.registry.cancel("req-0")
    stream = await answer.read()
    assert events_of(stream)[-1]["error"]["code"] == "cancelled"
    assert stream.endswith(b"data: [DONE]\n\n")


# --- a child that lives, and lacks memory ---


async def test_a_request_that_found_no_memory_is_run_once_more_alone(stand: Stand) -> None:
    stand.supervisor.short_of_memory = True
    other = stand.ask(sampling={"seed": 1})
    running = await stand.child.call()
    asking = stand.ask(sampling={"seed": 2})
    (await stand.child.call()).reset()
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await running.answer(child_says.chat_stream("x"))
    assert (await other).status == 200
    again = await stand.child.call()
    assert again.json["seed"] == 2
    again.reset()
    assert (await asking).status == 503
    assert stand.jobs[1].answer.attempts == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_one_that_is_ended_for_memory_unseen_is_run_again_alone(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.start()
    give_up = await _when_possible(stand)
    give_up()
    assert await call.was_reset()

    again = await stand.child.call()
    beside = stand.ask()
    await eventually(lambda: stand.gate.snapshot().waiting == 1, "nobody may run beside it")
    await again.answer(child_says.chat_stream("x"))
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_says.chat_stream("y"))
    assert (await beside).status == 200
    assert stand.supervisor.judged == 0


async def test_one_that_fills_the_child_alone_is_told_what_to_try(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    for _ in range(2):
        await (await stand.child.call()).start()
        (await _when_possible(stand))()
    answer = await asking
    assert answer.status == 400
    assert (await answer.json())["error"]["code"] == "context_length_exceeded"


async def test_one_that_is_ended_for_memory_after_content_is_told_by_contract(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_says.delta(content="half"))
    answer = await asking
    (await _when_possible(stand))()
    body = await answer.read()
    assert b'"code":"503"' in body.replace(b" ", b"")
    assert body.endswith(b"data: [DONE]\n\n")
    assert stand.jobs[0].reason == "no_memory"


async def _when_possible(stand: Stand) -> Callable[[], None]:
    """What ends the running request, once the child has begun to answer."""
    await eventually(lambda: any(job.give_up for job in stand.jobs))
    return next(job.give_up for job in stand.jobs if job.give_up is not None)


async def test_a_child_that_is_too_busy_to_be_reached_is_asked_until_the_deadline(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_CONNECT_RETRIES_S", 0.01)
    stand.child.stop_listening()
    asking = stand.ask()
    await eventually(lambda: stand.supervisor.judged >= 2)
    await stand.child.listen_again()
    await (await stand.child.call()).answer(child_says.chat_stream("x"))
    answer = await asking
    assert (answer.status, answer.headers["x-mlxguard-attempts"]) == (200, "1")

    stand.child.stop_listening()
    stand.max_wait_s = 0.1
    assert (await stand.ask()).status == 503
    assert stand.jobs[1].reason == "queue_deadline"
