"""Attempts that break as transcripts: what the child does, what the client sees of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.gate.budget import Budget
from proxy.job import Outcome, Stage
from proxy.stream.tool_calls import UNREADABLE
from proxy.upstream import client
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand, events_of, eventually, text_of


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


@pytest.mark.parametrize("stream", [True, False])
async def test_a_death_before_content_is_not_noticed(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    first = await stand.child.call()
    await first.start()
    await first.send(b": keepalive 3/7\n\n" + child_events.delta(run="first"))
    stand.supervisor.down()
    first.reset()
    await eventually(lambda: stand.jobs[0].stage is Stage.STARTING)
    assert not asking.done()

    stand.supervisor.up(stand.child)
    second = await stand.child.call()
    assert second.body == first.body
    await second.answer(child_events.chat_stream("Hello", run="second"))
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
    await first.send(child_events.delta(content="half of"))
    stand.supervisor.down()
    await first.finish()

    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_events.chat_stream("whole"))

    assert (await (await asking).json())["choices"][0]["message"]["content"] == "whole"


async def test_a_death_after_content_ends_the_stream_by_contract(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="half"))
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
@pytest.mark.parametrize("said", [b"", child_events.delta(), child_events.delta(content="x"), b"data: {\n\n"])
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

    await (await stand.child.call()).answer(child_events.chat_stream("x"))

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
    await (await stand.child.call()).answer(child_events.chat_stream("x"))
    assert (await asking).status == 200


async def test_a_death_before_the_childs_headers(stand: Stand) -> None:
    asking = stand.ask()
    call = await stand.child.call()
    stand.supervisor.down()
    await call.dropped()
    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_events.chat_stream("x"))
    assert (await asking).status == 200


async def test_a_child_that_died_behind_a_whole_answer(stand: Stand) -> None:
    """Its last words were on their way: the answer is complete, whatever became of the child."""
    asking = stand.ask()
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.chat_stream("x"))
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
        await (await stand.child.call()).answer(child_events.chat_stream("x"))

    assert [(await each).status for each in asking] == [200] * 4
    assert [job.answer.attempts for job in stand.jobs] == [2, 2, 1, 1]


# --- a child that lives, and lacks memory ---


async def test_a_request_that_found_no_memory_is_run_once_more_alone(stand: Stand) -> None:
    stand.supervisor.lacks_memory = True
    other = stand.ask(sampling={"seed": 1})
    running = await stand.child.call()
    asking = stand.ask(sampling={"seed": 2})
    (await stand.child.call()).reset()
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await running.answer(child_events.chat_stream("x"))
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
    await again.answer(child_events.chat_stream("x"))
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_events.chat_stream("y"))
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
    await call.send(child_events.delta(content="half"))
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
    monkeypatch.setattr(client, "_CONNECT_RETRIES_S", 0.01)
    stand.child.stop_listening()
    asking = stand.ask()
    await eventually(lambda: stand.supervisor.judged >= 2)
    await stand.child.listen_again()
    await (await stand.child.call()).answer(child_events.chat_stream("x"))
    answer = await asking
    assert (answer.status, answer.headers["x-mlxguard-attempts"]) == (200, "1")

    stand.child.stop_listening()
    stand.max_wait_s = 0.1
    assert (await stand.ask()).status == 503
    assert stand.jobs[1].reason == "queue_deadline"


# --- tool calls that the child cannot read ---

LOST = child_events.delta(finish="tool_calls") + child_events.usage() + child_events.DONE
CALLED = (
    child_events.delta(tool_calls=[child_events.tool_call("f", "{}")])
    + child_events.delta(finish="tool_calls")
    + child_events.usage()
    + child_events.DONE
)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_lost_call_is_asked_for_again_unseen(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream, sampling={"seed": 1, "top_k": 1})
    await (await stand.child.call()).answer(LOST)
    second = await stand.child.call()
    assert second.json["temperature"] > 0
    assert not {"seed", "top_k"} & second.json.keys()
    await second.answer(CALLED)

    response = await asking
    body = await response.read()

    assert response.headers["x-mlxguard-tool-calls"] == "asked_again=1"
    assert response.headers["x-mlxguard-attempts"] == "2"
    assert body.count(b'"finish_reason": "tool_calls"') + body.count(b'"finish_reason":"tool_calls"') == 1
    assert UNREADABLE.encode() not in body
    assert stand.jobs[0].outcome is Outcome.OK
    assert stand.search_stalls.steps.count("ask again") == 1
    assert stand.supervisor.judged == 0, "the child lives: it has just answered"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_is_lost_twice_ends_with_a_text(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    await (await stand.child.call()).answer(LOST)
    await (await stand.child.call()).answer(LOST)

    response = await asking
    body = await response.read()

    assert UNREADABLE.encode() in body
    assert b"stop" in body
    assert b"tool_calls" not in body
    assert response.headers["x-mlxguard-tool-calls"] == "asked_again=1, unreadable=1"
    assert stand.jobs[0].outcome is Outcome.OK


async def test_a_call_that_is_lost_after_content_ends_with_a_text(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="Let me see."))
    response = await asking
    await call.send(LOST)
    await call.finish()

    stream = await response.read()

    assert text_of(stream) == f"Let me see.\n\n{UNREADABLE}"
    assert events_of(stream)[-1]["choices"][0]["finish_reason"] == "stop"
    assert stand.jobs[0].answer.attempts == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_the_child_chokes_on_is_asked_for_again(stand: Stand, stream: bool) -> None:
    stand.supervisor.chokes = True
    asking = stand.ask(stream=stream)
    await (await stand.child.call()).answer(child_events.delta())
    await (await stand.child.call()).answer(CALLED)

    response = await asking

    assert response.status == 200
    assert b"unreadable" not in await response.read()
    assert response.headers["x-mlxguard-tool-calls"] == "asked_again=1"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_the_child_chokes_on_twice_ends_with_a_text(stand: Stand, stream: bool) -> None:
    stand.supervisor.chokes = True
    asking = stand.ask(stream=stream, include_usage=stream)
    await (await stand.child.call()).answer(child_events.delta())
    await (await stand.child.call()).answer(child_events.delta())

    body = await (await asking).read()

    assert UNREADABLE.encode() in body
    assert b'"prompt_tokens":7' in body
    assert not stream or body.endswith(b"data: [DONE]\n\n")
    assert stand.jobs[0].outcome is Outcome.OK


async def test_a_call_of_an_unstreamed_answer_is_asked_for_again(stand: Stand) -> None:
    """Before its end the child sends nothing of such an answer, so it closes a connection without a word."""
    stand.supervisor.chokes = True
    asking = stand.ask(logprobs=True)
    await (await stand.child.call()).finish()
    await (await stand.child.call()).finish()

    answer = await (await asking).json()

    assert answer["choices"][0]["message"]["content"] == UNREADABLE
    assert stand.jobs[0].answer.attempts == 2


async def test_choking_after_content_ends_the_stream_in_order(stand: Stand) -> None:
    stand.supervisor.chokes = True
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.answer(child_events.delta(tool_calls=[child_events.tool_call("f", "{}")]))

    stream = await (await asking).read()

    assert events_of(stream)[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert b"error" not in stream
