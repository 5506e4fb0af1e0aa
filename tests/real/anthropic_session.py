"""One user of the anthropic package, as a program: `python anthropic_session.py URL WHAT...`.

Run by test_dialects.py in an environment that has the package. It fails by an assertion.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import anthropic
from anthropic import Anthropic, AsyncAnthropic

#: Secrets that must not be found in anything that the proxy writes: tests/support/canaries.py.
PROMPT, KEY = os.environ["CANARY_PROMPT"], os.environ["CANARY_KEY"]
MESSAGES: list[Any] = [{"role": "user", "content": f"Weather? {PROMPT}"}]
SYSTEM: list[Any] = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cc_entrypoint=cli;"},
    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {"name": "get_weather", "description": "The weather in a city.", "input_schema": SCHEMA},
    {"type": "web_search_20250305", "name": "web_search"},
]


def prompt_tokens(usage: Any) -> int:
    return int(usage.input_tokens + (usage.cache_read_input_tokens or 0))


def plain(client: Anthropic) -> None:
    """Whole and streamed give the same text, and the count is the usage."""
    asked: Any = {"model": "tiny", "messages": MESSAGES, "system": SYSTEM, "max_tokens": 20}
    answer = client.messages.create(**asked)
    assert answer.id.startswith("msg_"), answer
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "tiny")
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 20
    (block,) = answer.content
    assert block.type == "text" and block.text

    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text == final.content[0].text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 20

    del asked["max_tokens"]
    counted = client.messages.count_tokens(**asked).input_tokens
    assert counted == prompt_tokens(answer.usage) == prompt_tokens(final.usage)


def counts(client: Anthropic) -> None:
    """As /context asks: tools alone count, and no message is needed."""
    none = client.messages.count_tokens(model="tiny", messages=[]).input_tokens
    foo = client.messages.count_tokens(
        model="tiny", messages=[{"role": "user", "content": "foo"}]
    ).input_tokens
    tools = client.messages.count_tokens(model="tiny", messages=[], tools=TOOLS).input_tokens
    assert 0 < none < foo, (none, foo)
    assert tools >= none


def events(client: Anthropic) -> None:
    """The raw events, in the protocol's order."""
    asked = client.messages.create(model="tiny", messages=MESSAGES, max_tokens=10, stream=True)
    kinds = [event.type for event in asked]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def tools(client: Anthropic) -> None:
    """A whole turn with the scripted model: thoughts, two calls, their results, an answer."""
    turn: list[Any] = list(MESSAGES)
    with client.messages.stream(model="tiny", messages=turn, tools=TOOLS, max_tokens=200) as stream:
        streamed = stream.get_final_message()
    called = client.messages.create(model="tiny", messages=turn, tools=TOOLS, max_tokens=200)
    for answer in (called, streamed):
        assert answer.stop_reason == "tool_use", answer
        uses = [block for block in answer.content if block.type == "tool_use"]
        assert [(use.name, use.input) for use in uses] == [
            ("get_weather", {"city": "Paris"}),
            ("get_weather", {"city": "Zürich", "unit": "C"}),
        ]
        (thought,) = [block for block in answer.content if block.type == "thinking"]
        assert "A function gives it." in thought.thinking
        assert thought.signature
    raw = client.messages.with_raw_response.create(model="tiny", messages=turn, tools=TOOLS, max_tokens=200)
    assert raw.headers["x-mlxguard-left-out"] == "tool web_search"

    results: list[Any] = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    results[0] = {**results[0], "is_error": True, "content": [{"type": "text", "text": "no such city"}]}
    turn.append({"role": "assistant", "content": [block.model_dump() for block in called.content]})
    turn.append({"role": "user", "content": [*results, {"type": "text", "text": "So?"}]})
    answered = client.messages.create(model="tiny", messages=turn, max_tokens=200)
    assert answered.stop_reason == "end_turn"
    assert answered.content[-1].text.strip() == "It is sunny in Paris (天気 🙂)."


def errors(client: Anthropic) -> None:
    long: list[Any] = [{"role": "user", "content": PROMPT + "word " * 60_000}]
    for stream in (False, True):
        try:
            client.messages.create(model="tiny", messages=long, max_tokens=10, stream=stream)
        except anthropic.BadRequestError as error:
            assert error.body["error"]["type"] == "invalid_request_error", error.body
            assert error.body["error"]["message"].startswith("prompt is too long: ")
        else:
            raise AssertionError("a prompt over the limit was taken")
    try:
        client.messages.create(model="claude-99", messages=MESSAGES, max_tokens=10)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
    else:
        raise AssertionError("a model that is not there answered")
    try:
        client.messages.create(model="tiny", messages=[{"role": "robot", "content": "x"}], max_tokens=10)  # type: ignore[typeddict-item]
    except anthropic.BadRequestError as error:
        assert "`messages[0].role`" in error.body["error"]["message"], error.body
    else:
        raise AssertionError("an unknown role was taken")
    (model,) = client.models.list()
    assert (model.id, model.type, model.display_name) == ("tiny", "model", "tiny")


def asynchronous(client: Anthropic) -> None:
    async def run() -> None:
        async with AsyncAnthropic(base_url=client.base_url, api_key=KEY, max_retries=0) as many:

            async def one(number: int) -> str:
                messages: list[Any] = [{"role": "user", "content": f"Number {number} {PROMPT}"}]
                asked: Any = {"model": "tiny", "messages": messages, "max_tokens": 20}
                if number % 2:
                    return (await many.messages.create(**asked)).content[0].text
                async with many.messages.stream(**asked) as stream:
                    return "".join([text async for text in stream.text_stream])

            async def count(number: int) -> int:
                messages: list[Any] = [{"role": "user", "content": f"Count {number} {PROMPT}"}]
                return (await many.messages.count_tokens(model="tiny", messages=messages)).input_tokens

            texts, numbers = await asyncio.gather(
                asyncio.gather(*(one(number) for number in range(8))),
                asyncio.gather(*(count(number) for number in range(25))),
            )
            assert all(texts), texts
            assert all(numbers), numbers

    asyncio.run(run())


SESSIONS: dict[str, Callable[[Anthropic], None]] = {
    session.__name__: session for session in (plain, counts, events, tools, errors, asynchronous)
}

if __name__ == "__main__":
    url, *names = sys.argv[1:]
    with Anthropic(base_url=url, api_key=KEY, max_retries=0) as user:
        for name in names:
            SESSIONS[name](user)
