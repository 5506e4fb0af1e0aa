"""One user of the openai package's Responses API, as a program: `python responses_session.py URL WHAT...`.

Run by test_dialects.py. It fails by an assertion.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

#: Secrets that must not be found in anything that the proxy writes: tests/support/canaries.py.
PROMPT, KEY = os.environ["CANARY_PROMPT"], os.environ["CANARY_KEY"]
INPUT = f"Weather? {PROMPT}"
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
    {"type": "web_search"},
]


def plain(client: OpenAI) -> None:
    """Whole and streamed give the same text; tokens add up."""
    asked: Any = {"model": "tiny", "input": INPUT, "instructions": "Be brief.", "store": False}
    answer = client.responses.create(**asked, max_output_tokens=20)
    assert answer.id.startswith("resp_"), answer
    assert (answer.object, answer.model, answer.status) == ("response", "tiny", "incomplete")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens == 20
    assert answer.usage.total_tokens == answer.usage.input_tokens + 20

    events = list(client.responses.create(**asked, max_output_tokens=20, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == answer.output_text
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text

    whole = client.responses.create(**asked)
    assert whole.status == "completed", "the server's own length is none that the client has set"


def tools(client: OpenAI) -> None:
    """A whole turn with the scripted model: thoughts, two calls, their outputs, an answer."""
    turn: list[Any] = [{"role": "user", "content": INPUT}]
    with client.responses.stream(model="tiny", input=turn, tools=TOOLS) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_response()
    called = client.responses.create(model="tiny", input=turn, tools=TOOLS)
    for answer in (called, streamed):
        assert answer.status == "completed"
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [
            ("get_weather", {"city": "Paris"}),
            ("get_weather", {"city": "Zürich", "unit": "C"}),
        ]
        (thought,) = [item for item in answer.output if item.type == "reasoning"]
        assert "A function gives it." in (thought.content or [])[0].text
    raw = client.responses.with_raw_response.create(model="tiny", input=turn, tools=TOOLS)
    assert raw.headers["x-mlxguard-left-out"] == "tool web_search"

    turn += [item.model_dump() for item in called.output]
    turn += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    answered = client.responses.create(model="tiny", input=turn)
    assert answered.output_text.strip() == "It is sunny in Paris (天気 🙂)."


def errors(client: OpenAI) -> None:
    try:
        client.responses.create(model="tiny", input=PROMPT + "word " * 60_000)
    except openai.BadRequestError as error:
        assert (error.code, error.param) == ("context_length_exceeded", "input"), error
    else:
        raise AssertionError("a prompt over the limit was taken")
    for refused in ({"previous_response_id": "resp_1"}, {"store": True}, {"background": True}):
        try:
            client.responses.create(model="tiny", input=INPUT, **refused)  # type: ignore[call-overload]
        except openai.BadRequestError as error:
            assert error.param == next(iter(refused)), error
        else:
            raise AssertionError(f"taken: {refused}")
    try:
        client.responses.create(model="gpt-99", input=INPUT)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("a model that is not there answered")


def asynchronous(client: OpenAI) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=client.base_url, api_key=KEY, max_retries=0) as many:

            async def one(number: int) -> str:
                asked: Any = {"model": "tiny", "input": f"Number {number} {PROMPT}", "max_output_tokens": 20}
                if number % 2:
                    return (await many.responses.create(**asked)).output_text
                events = await many.responses.create(**asked, stream=True)
                return "".join([e.delta async for e in events if e.type == "response.output_text.delta"])

            texts = await asyncio.gather(*(one(number) for number in range(8)))
            assert all(texts), texts

    asyncio.run(run())


SESSIONS: dict[str, Callable[[OpenAI], None]] = {
    session.__name__: session for session in (plain, tools, errors, asynchronous)
}

if __name__ == "__main__":
    url, *names = sys.argv[1:]
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as user:
        for name in names:
            SESSIONS[name](user)
