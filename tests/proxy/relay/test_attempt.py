"""One attempt, step by step; what its clients see of it is in test_relay.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.stream.rewrite import Rewriter
from proxy.stream.tool_calls import StreamCalls
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand, events_of, eventually


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        yield stand


async def test_a_request_is_followed_step_by_step(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    await (await stand.child.call()).answer(child_events.chat_stream("Hel", "lo"))
    await (await asking).read()
    steps = ["predict", "asked", "answer began", "prompt read", "attempt ended", "ended ok"]
    assert stand.search_stalls.steps == steps


async def test_what_the_child_refuses_ends_incomplete(stand: Stand) -> None:
    asking = stand.ask()
    await (await stand.child.call()).refuse(400, "no")
    assert (await asking).status == 400
    assert stand.search_stalls.steps == ["predict", "asked", "attempt ended", "ended invalid"]


async def test_log_probabilities_are_asked_for_unstreamed(stand: Stand) -> None:
    asking = stand.ask(logprobs=True)
    call = await stand.child.call()
    assert call.json["stream"] is False
    assert call.json["logprobs"] is True
    counts = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    body = json.dumps({**child_events.head(), "choices": [choice], "usage": counts}).encode()
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await call.finish()

    answer = await (await asking).json()

    assert answer["id"] == "chatcmpl-0"
    assert answer["choices"][0]["message"]["content"] == "x"


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
    await call.send(b"".join(child_events.delta(content=f"{number} ") for number in range(100)))
    response = await asking
    await response.content.readexactly(10)
    assert len(writes) == 1
    assert writes[0].count(b"\n\n") == 100

    await call.send(child_events.DONE)
    await response.read()


@pytest.mark.parametrize("version", [aiohttp.HttpVersion10, aiohttp.HttpVersion11])
async def test_content_that_follows_content_passes_through_in_order(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, version: aiohttp.HttpVersion
) -> None:
    """Some of it in the callback that reads it, some through a coroutine; chunked for HTTP/1.1 alone."""
    fed, through, given = [], [], []
    take = StreamCalls.feed

    def recorded_take(self: StreamCalls, data: bytes) -> bytes:
        given.append(data)
        return take(self, data)

    feed, pass_through = Rewriter.feed, Rewriter.pass_through

    def recorded_feed(self: Rewriter, data: bytes) -> bytes:
        fed.append(data)
        return feed(self, data)

    def recorded_pass(self: Rewriter, data: bytes) -> bytes | None:
        out = pass_through(self, data)
        through.extend([data] if out is not None else [])
        return out

    monkeypatch.setattr(StreamCalls, "feed", recorded_take)
    monkeypatch.setattr(Rewriter, "feed", recorded_feed)
    monkeypatch.setattr(Rewriter, "pass_through", recorded_pass)
    assert stand.session
    stand.session._version = version
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    whole = [child_events.delta(content=f"{number} ") for number in range(6)]
    pieces = [*whole[:3], whole[3][:40], whole[3][40:], child_events.delta(reasoning="so "), *whole[4:]]
    got = b""
    for number, piece in enumerate(pieces):
        await call.send(piece)
        response = await asking
        if number == 3:  # half of an event
            await eventually(lambda: pieces[3] in given)
        else:
            got += await response.content.readuntil(b"\n\n")
    await call.send(child_events.DONE)
    got += await response.read()

    deltas = [event["choices"][0]["delta"] for event in events_of(got)]
    assert "".join(delta.get("content", "") for delta in deltas) == "0 1 2 3 4 5 "
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["so "]
    assert through == whole[1:]
    assert fed == [whole[0], whole[3], pieces[5], child_events.DONE]
    assert stand.jobs[0].completion_tokens == 7


async def test_a_single_event_of_two_megabytes(stand: Stand) -> None:
    arguments = json.dumps({"content": "x" * 2_000_000})
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.answer(
        child_events.delta(tool_calls=[child_events.tool_call("w", arguments)]) + child_events.DONE
    )

    (event,) = events_of(await (await asking).read())

    assert event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == arguments
