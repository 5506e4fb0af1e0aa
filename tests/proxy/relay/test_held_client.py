"""Answers that must have a form, as transcripts: what the child is asked, what the client sees in the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.config.settings import QueueSettings
from proxy.job import Outcome
from proxy.prompt.output_check import OutputCheck
from proxy.request.template_traits import TemplateTraits
from tests.proxy.prompt.test_output_check import JSON, LIMITS, Counts
from tests.support import child_events
from tests.support.relay_stand import Stand, a_stand, events_of, text_of

GOOD = '{"city": "Paris"}'


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with a_stand() as stand:
        stand.output_check = lambda: OutputCheck(JSON, Counts(), LIMITS, TemplateTraits())
        yield stand


def _content(body: bytes, *, stream: bool) -> str:
    if stream:
        return text_of(body)
    return str(json.loads(body)["choices"][0]["message"]["content"])


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_fits(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream, include_usage=stream)
    await (await stand.child.call()).answer(child_events.chat_stream("```json\n", GOOD, "\n```"))

    response = await asking
    body = await response.read()

    assert _content(body, stream=stream) == GOOD
    assert response.headers["x-mlxguard-structured-output"] == "answers=1"
    assert b'"prompt_tokens":7' in body
    assert not stream or body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_another_answer_is_asked_for_with_what_was_wrong(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    await (await stand.child.call()).answer(child_events.chat_stream("Paris", "."))
    second = await stand.child.call()
    asked = second.json["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == "Paris."
    assert "is not JSON" in asked[2]["content"]
    await second.answer(child_events.chat_stream(GOOD))

    response = await asking
    body = await response.read()

    assert _content(body, stream=stream) == GOOD
    assert b"Paris." not in body
    assert response.headers["x-mlxguard-structured-output"] == "answers=2"
    assert response.headers["x-mlxguard-prompt-tokens"] == "30"
    assert stand.jobs[0].outcome is Outcome.OK
    assert stand.jobs[0].asked_anew == 1
    assert stand.search_stalls.steps.count("ask again") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_it_ends_in_a_clear_error(stand: Stand, stream: bool) -> None:
    asking = stand.ask(stream=stream)
    for _ in range(3):
        await (await stand.child.call()).answer(child_events.chat_stream("Paris"))

    response = await asking

    assert response.status == 422
    assert response.headers["x-should-retry"] == "false"
    error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("structured_output_failed", "response_format")
    assert (stand.jobs[0].outcome, stand.jobs[0].reason) == (Outcome.INVALID, "answer_unfit")


async def test_a_stream_is_kept_alive_and_gets_all_of_it_at_the_end(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.005)
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(reasoning="Well.") + child_events.delta(content='{"city":'))
    response = await asking
    assert (await response.content.readuntil(b"\n\n")).startswith(b": ")
    await call.send(child_events.delta(content=' "Paris"}'))
    assert (await response.content.readuntil(b"\n\n")).startswith(b": ")
    await call.send(child_events.delta(finish="stop") + child_events.usage() + child_events.DONE)
    await call.finish()

    stream = await response.read()

    assert text_of(stream) == GOOD
    said = [event["choices"][0] for event in events_of(stream)]
    assert said[0]["delta"]["reasoning"] == said[0]["delta"]["reasoning_content"] == "Well."
    assert said[-1]["finish_reason"] == "stop"


async def test_a_stream_whose_headers_are_out_ends_with_the_error_in_it(stand: Stand) -> None:
    stand.options = QueueSettings(headers_after_s=0.0, keepalive_s=0.005)
    asking = stand.ask(stream=True)
    for _ in range(3):
        call = await stand.child.call()
        await asking
        await call.answer(child_events.chat_stream("Paris"))

    stream = await (await asking).read()

    *_, error, done, _ = stream.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "structured_output_failed"
    assert done == b"data: [DONE]"
    assert b"Paris" not in stream.replace(error, b"")


async def test_a_death_is_replayed_whatever_was_collected(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    call = await stand.child.call()
    await call.start()
    await call.send(child_events.delta(content='{"ci'))
    stand.supervisor.down()
    await call.finish()
    stand.supervisor.up(stand.child)
    await (await stand.child.call()).answer(child_events.chat_stream(GOOD))

    assert text_of(await (await asking).read()) == GOOD


async def test_calls_and_log_probabilities(stand: Stand) -> None:
    asking = stand.ask(stream=True)
    called = child_events.tool_call("f", "{}")
    await (await stand.child.call()).answer(
        child_events.delta(tool_calls=[called]) + child_events.delta(finish="tool_calls") + child_events.DONE
    )
    said = events_of(await (await asking).read())
    assert said[0]["choices"][0]["delta"]["tool_calls"] == [called]
    assert said[1]["choices"][0]["finish_reason"] == "tool_calls"

    asking = stand.ask(logprobs=True)
    whole: dict[str, Any] = {
        **child_events.head(),
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": f" {GOOD}\n"},
                "logprobs": {"content": []},
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }
    body = json.dumps(whole).encode()
    call = await stand.child.call()
    await call.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await call.finish()
    choice = (await (await asking).json())["choices"][0]
    assert choice["message"]["content"] == GOOD
    assert choice["logprobs"] == {"content": []}
