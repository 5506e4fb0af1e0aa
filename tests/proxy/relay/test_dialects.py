"""The relay with the two other protocols: openings, signs of life, replays and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from proxy.config.settings import QueueSettings
from proxy.dialects.form import AnswerForm
from proxy.dialects.messages.events import MessageForm
from proxy.dialects.responses.events import ResponseForm
from proxy.dialects.responses.tools import FunctionTable
from proxy.job import Outcome, Stage
from proxy.relay.streaming_client import StreamingClient
from proxy.request.completion import CompletionRequest
from proxy.stream.answer import Answer
from supervisor.lifecycle.causes import Cause
from tests.support import child_events
from tests.support.messages_protocol import MessagesClient, events_of
from tests.support.relay_stand import Stand, a_stand, eventually
from tests.support.responses_protocol import ResponsesClient


def message_form(answer: Answer, _: CompletionRequest) -> AnswerForm:
    return MessageForm(answer, 7)


def response_form(answer: Answer, _: CompletionRequest) -> AnswerForm:
    return ResponseForm(answer, 7, table=FunctionTable(), is_length_set=False)


CLIENTS: list[Any] = [
    pytest.param((message_form, MessagesClient), id="messages"),
    pytest.param((response_form, ResponsesClient), id="responses"),
]


@pytest.fixture(params=CLIENTS)
async def stand(request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        stand.form, stand.client = request.param  # type: ignore[attr-defined, method-assign]
        yield stand


def followed(stand: Stand, stream: bytes) -> Any:
    return stand.client().read(stream)  # type: ignore[attr-defined]


def is_complete(client: Any) -> bool:
    return bool(client.stopped if isinstance(client, MessagesClient) else client.ended)


def text_of(client: Any) -> str:
    if isinstance(client, MessagesClient):
        assert client.message is not None
        return "".join(block["text"] for block in client.message["content"])
    return "".join(item["content"][0]["text"] for item in client.output)


async def test_a_stream_from_its_opening_to_its_end(stand: Stand) -> None:
    asked = stand.ask(stream=True)
    call = await stand.child.call()
    assert call.json["stream_options"] == {"include_usage": True}
    await call.answer(child_events.chat_stream("a", "b", "c"))
    response = await asked
    assert response.content_type == "text/event-stream"
    client = followed(stand, await response.read())
    assert is_complete(client)
    assert text_of(client) == "abc"


async def test_events_that_arrive_one_by_one_pass_at_once(stand: Stand) -> None:
    asked = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="first"))
    response = await asked
    seen = await response.content.readany()
    for number in range(20):
        await call.send(child_events.delta(content=f"{number},"))
        seen += await response.content.readany()
    await call.send(child_events.delta(finish="stop") + child_events.usage() + child_events.DONE)
    await call.finish()
    client = followed(stand, seen + await response.read())
    assert is_complete(client)
    assert text_of(client) == "first" + "".join(f"{number}," for number in range(20))


async def test_a_whole_answer(stand: Stand) -> None:
    asked = stand.ask()
    await (await stand.child.call()).answer(child_events.chat_stream("a", "b"))
    body = await (await asked).json()
    blocks = body["content"] if body.get("type") == "message" else body["output"][0]["content"]
    assert blocks[0]["text"] == "ab"


async def test_each_sign_of_life_is_an_event_and_the_opening_comes_first(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0, keepalive_s=0.01)
    asked = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    response = await asked
    seen = b""
    while seen.count(b"data: ") < 6:
        seen += await response.content.readany()
    kinds = [event["type"] for event in events_of(seen[: seen.rindex(b"\n\n") + 2])]
    assert kinds[0] in ("message_start", "response.created")
    assert set(kinds[1:]) in ({"ping"}, {"response.in_progress"})
    await call.send(child_events.chat_stream("a"))
    await call.finish()
    assert is_complete(followed(stand, seen + await response.read()))


async def test_a_replay_of_a_held_stream_is_one_answer(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0, keepalive_s=0.01)
    asked = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    response = await asked
    await call.send(child_events.delta())
    call.reset()
    stand.crash(Cause.SEGFAULT)
    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_events.chat_stream("a"))
    client = followed(stand, await response.read())
    assert is_complete(client)
    assert text_of(client) == "a"
    assert stand.jobs[0].answer.attempts == 2


async def test_a_death_after_content_ends_in_the_protocols_own_failure(stand: Stand) -> None:
    asked = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content="half"))
    response = await asked
    seen = await response.content.readany()
    call.reset()
    stand.crash(Cause.SEGFAULT)
    client = followed(stand, seen + await response.read())
    assert stand.jobs[0].outcome is Outcome.CUT
    if isinstance(client, MessagesClient):
        assert not client.stopped
        assert client.error is not None
        assert client.error["type"] == "overloaded_error", "after it the client asks again"
    else:
        assert client.response["status"] == "failed"
        assert client.response["error"]["code"] == "server_error"


async def test_a_failure_before_anything_was_sent_has_its_own_status(stand: Stand) -> None:
    stand.max_wait_s = 0.05
    stand.supervisor.down(Cause.SEGFAULT)
    response = await stand.ask(stream=True)
    assert response.status == 503


@pytest.mark.parametrize("pause", [0.0, 0.001])
async def test_signs_and_content_keep_their_order(stand: Stand, pause: float) -> None:
    """Numbers of events rise by one each, however signs of life fall between."""
    stand.options = QueueSettings(headers_after_s=0, keepalive_s=0.0005)
    asks = [stand.ask(stream=True) for _ in range(5)]
    for _ in asks:
        call = await stand.child.call()
        await call.start()
        for number in range(10):
            await call.send(child_events.delta(content=str(number)))
            await asyncio.sleep(pause)
        await call.send(child_events.usage() + child_events.DONE)
        await call.finish()
    for asked in asks:
        client = followed(stand, await (await asked).read())
        assert is_complete(client)
        assert text_of(client) == "0123456789"


async def test_a_client_that_closes_at_the_last_event_has_its_answer(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codex does: it reads no further than `response.completed`."""

    async def never(_: StreamingClient) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(StreamingClient, "finish", never)
    asked = stand.ask(stream=True)
    await (await stand.child.call()).answer(child_events.chat_stream("a"))
    response = await asked
    seen = b""
    while not seen or not is_complete(followed(stand, seen)):
        seen += await response.content.readany()
    assert response.connection is not None
    assert response.connection.transport is not None
    response.connection.transport.abort()
    await eventually(lambda: stand.jobs[0].stage is Stage.ENDED)
    assert stand.jobs[0].outcome is Outcome.OK


async def test_what_was_left_out_is_named(stand: Stand) -> None:
    make = partial(Stand.job, stand)

    def job(wish: dict[str, Any], *, is_chat: bool) -> Any:
        made = make(wish, is_chat=is_chat)
        made.left_out = ("tool web_search", "tool web_search", "item größe\r\nx: y")
        return made

    stand.job = job  # type: ignore[method-assign]
    asked = stand.ask()
    await (await stand.child.call()).answer(child_events.chat_stream("a"))
    response = await asked
    assert response.headers["x-mlxguard-left-out"] == "tool web_search, item gr??e??x: y"
    assert json.loads(await response.read())
