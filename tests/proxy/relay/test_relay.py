"""The relay as transcripts: what the child does, what the client sees, byte by byte."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import AsyncIterator

import pytest

from proxy.config.settings import QueueSettings
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.job import Outcome, Stage
from proxy.stream.rewrite import Rewriter
from proxy.upstream import client as upstream
from supervisor.lifecycle.causes import Cause
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand, events_of, eventually, text_of


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
    await call.answer(child_events.chat_stream("Hel", "lo"))

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


async def test_an_answer_without_any_content_is_complete(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    await (await stand.child.call()).answer(child_events.chat_stream())

    stream = await (await asking).read()

    assert events_of(stream)[0]["choices"][0]["finish_reason"] == "stop"
    assert stream.endswith(b"data: [DONE]\n\n")
    assert stand.jobs[0].outcome is Outcome.OK


async def test_no_status_before_content(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(b": keepalive 3/7\n\n" + child_events.delta() + child_events.delta(content=""))
    await eventually(lambda: stand.jobs[0].seen is not None and stand.jobs[0].seen.events == 2)
    assert not asking.done()
    assert stand.jobs[0].summary()["prefill"] == (3, 7)

    await call.send(child_events.delta(content="x"))

    assert (await asking).status == 200
    await call.send(child_events.DONE)
    assert text_of(await (await asking).read()) == "x"


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


async def test_a_full_queue(stand: Stand) -> None:
    stand.gate = Gate(Budget(max_running=1), max_waiting=0, on_sample=lambda _: None)
    asking = stand.ask()
    call = await stand.child.call()

    response = await stand.ask(stream=True)

    assert response.status == 503
    assert stand.jobs[1].reason == "queue_full"
    await call.answer(child_events.chat_stream("x"))
    assert (await asking).status == 200


# --- clients that leave, clients that are slow ---


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_ends_the_request_at_the_child(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="x"))
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
    assert (snapshot.running, snapshot.disconnected) == (1, 1)
    await call.start()
    assert await call.was_reset()
    await eventually(lambda: stand.gate.snapshot().running == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_while_waiting_leaves_the_queue(stand: Stand, stream: bool) -> None:
    stand.gate.set_budget(Budget(max_running=0))
    asking = stand.ask(stream=stream)
    await eventually(lambda: stand.gate.snapshot().waiting == 1)

    asking.cancel()

    await eventually(lambda: stand.gate.snapshot().waiting == 0)
    await eventually(lambda: stand.jobs[0].outcome is Outcome.CLIENT_GONE)


async def test_a_disconnected_request_is_not_replayed(stand: Stand) -> None:
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
    await call.answer(child_events.chat_stream("x"))

    assert (await other).status == 200
    assert [job.answer.attempts for job in stand.jobs] == [1, 1]


# --- suspects ---


async def test_poison_runs_alone_and_is_refused_after_its_second_crash(stand: Stand) -> None:
    """The innocent request of its batch is replayed first, not isolated, and is never blamed."""
    poison = stand.ask(sampling={"seed": 1})
    first = await stand.child.call()
    innocent = stand.ask(sampling={"seed": 2})
    second = await stand.child.call()
    await second.start()
    await second.send(child_events.delta(content="Hel"))
    await eventually(lambda: stand.jobs[1].stage is Stage.DECODE)
    stand.crash()
    await first.finish()
    await second.finish()
    stand.supervisor.up(stand.child)

    again = await stand.child.call()
    assert again.json["seed"] == 2, "the innocent first"
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await again.answer(child_events.chat_stream("fine"))
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
    await (await stand.child.call()).answer(child_events.chat_stream("x"))
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


async def test_a_held_stream_that_is_quarantined_ends_with_the_documented_error(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.005)
    held = await stand.ask(stream=True)
    for _ in range(2):
        call = await stand.child.call()
        stand.crash()
        await call.finish()
        stand.supervisor.up(stand.child)
    stream = await held.read()
    assert events_of(stream)[-1]["error"]["code"] == "quarantined"
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_a_request_quarantined_at_its_last_attempt_is_told_so(stand: Stand) -> None:
    asking = stand.ask()
    for cause in (Cause.SEGFAULT, Cause.WEDGE, Cause.ABORTED):
        call = await stand.child.call()
        stand.crash(cause)
        await call.finish()
        stand.supervisor.up(stand.child)
    assert (await (await asking).json())["error"]["code"] == "quarantined"


async def test_a_death_with_an_external_cause_is_blamed_on_no_request(stand: Stand) -> None:
    asking = stand.ask()
    for _ in range(2):
        call = await stand.child.call()
        stand.quarantine.attribute(dataclasses.replace(stand.supervisor.down(), external=True))
        await call.finish()
        stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_events.chat_stream("x"))
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
    await call.send(child_events.delta(content="x"))
    await (await stand.child.call()).answer(child_events.chat_stream("y"))
    assert (await other).status == 200
    await call.send(child_events.DONE)
    await call.finish()
    assert (await asking).status == 200


async def test_a_suspect_of_decode_is_alone_to_its_end(stand: Stand) -> None:
    asking = stand.ask(sampling={"seed": 1})
    for last in (False, True):
        call = await stand.child.call()
        await call.start()
        await call.send(child_events.delta(content="x"))
        await eventually(lambda: stand.jobs[0].stage is Stage.DECODE)
        if not last:
            stand.crash()
            await call.finish()
            stand.supervisor.up(stand.child)
    other = stand.ask(sampling={"seed": 2})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await call.send(child_events.DONE)
    await call.finish()
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_events.chat_stream("y"))
    assert (await other).status == 200


async def test_an_identical_request_that_waited_is_isolated(stand: Stand) -> None:
    """It entered the queue before its fingerprint was suspected."""
    stand.gate = Gate(Budget(max_running=2), max_waiting=8, on_sample=lambda _: None)
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
        await call.answer(child_events.chat_stream("x"))
        await eventually(lambda: stand.gate.snapshot().running <= 1)
    assert [(await each).status for each in asking] == [200, 200, 200]


async def test_a_request_that_endured_two_deaths_is_isolated_at_its_last_attempt(stand: Stand) -> None:
    asking = stand.ask(sampling={"seed": 1})
    for _ in range(2):
        call = await stand.child.call()
        stand.supervisor.down()
        await call.finish()
        stand.supervisor.up(stand.child)
    call = await stand.child.call()
    other = stand.ask(sampling={"seed": 2})
    await eventually(lambda: stand.gate.snapshot().waiting == 1)
    await call.answer(child_events.chat_stream("x"))
    assert (await asking).status == 200
    await (await stand.child.call()).answer(child_events.chat_stream("y"))
    assert (await other).status == 200


# --- an administrator ---


async def test_whatever_is_raised_in_a_stream_ends_it_by_the_contract(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.text("Hel"))
    response = await asking
    await response.content.readany()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Rewriter, "feed", fail)
    monkeypatch.setattr(Rewriter, "pass_through", fail)
    await call.send(child_events.text("lo"))
    rest = await response.read()
    assert b"HTTP/1.1" not in rest
    assert b'"code":"internal_error"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (stand.jobs[0].outcome, stand.jobs[0].reason) == (Outcome.FAILED, "internal_error")


async def test_whatever_is_raised_before_a_stream_begins_is_an_error_of_its_own(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Gate, "ticket", fail)
    response = await stand.ask(stream=True)
    assert response.status == 500
    assert (await response.json())["error"]["code"] == "internal_error"


async def test_a_shortage_of_descriptors_here_is_no_death_and_may_be_tried_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(upstream, "connected", fail)
    monkeypatch.setattr(upstream, "_CONNECT_RETRIES_S", 0.05)
    response = await stand.ask(stream=True)
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert stand.jobs[0].reason == "out_of_files"
