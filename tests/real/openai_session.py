"""One user of the openai package, as a program: `python openai_session.py URL WHAT...`.

Run by test_clients.py with each version of the package that is promised to work. It fails by an assertion.
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
QUESTION = {"role": "user", "content": f"Weather? {PROMPT}"}
MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, QUESTION]
ENDLESS = 30_000  # tokens: half a minute of generation, at least
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def plain(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=20)
    assert answer.id.startswith("chatcmpl-"), answer
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == 20 + answer.usage.prompt_tokens


def stream(client: OpenAI) -> None:
    """The same text as unstreamed, and usage at the end."""
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=30)
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=30, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "length"
    ]
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == 30


def completions(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=10)
    assert answer.choices[0].text
    streamed = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=10, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert len(answer.choices[0].logprobs.content) == 5


def errors(client: OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": PROMPT + "word " * 60_000}]
    try:
        client.chat.completions.create(model="tiny", messages=long)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error
        assert error.param == "messages"
    else:
        raise AssertionError("a prompt over the limit was taken")
    try:
        client.chat.completions.create(model="gpt-99", messages=MESSAGES)
    except openai.NotFoundError as error:
        assert "tiny" in error.message, "what is served instead"
    else:
        raise AssertionError("a model that is not there answered")
    assert [model.id for model in client.models.list()] == ["tiny"]


def tools(client: OpenAI) -> None:
    """A whole turn with tools, with the scripted model: calls, results, answer; streamed the same."""
    turn: list[Any] = list(MESSAGES)
    called = client.chat.completions.create(model="tiny", messages=turn, tools=TOOLS).choices[0]
    assert called.finish_reason == "tool_calls"
    calls = called.message.tool_calls or []
    given = [
        (call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"
    ]
    assert given == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Zürich", "unit": "C"})]
    assert len({call.id for call in calls}) == 2
    turn.append(called.message.model_dump(exclude_none=True))
    turn += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    answered = client.chat.completions.create(model="tiny", messages=turn, tools=TOOLS).choices[0]
    assert answered.finish_reason == "stop"
    assert (answered.message.content or "").strip() == "It is sunny in Paris (天気 🙂)."
    thought = (answered.message.model_extra or {})["reasoning_content"].strip()
    assert thought == "The user asks for the weather. A function gives it."

    with client.chat.completions.stream(model="tiny", messages=MESSAGES, tools=TOOLS) as streamed:
        final = streamed.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert [
        (call.function.name, json.loads(call.function.arguments)) for call in final.message.tool_calls or []
    ] == given


def asynchronous(client: OpenAI) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=client.base_url, api_key=KEY, max_retries=0) as many:

            async def one(number: int) -> str:
                messages: list[Any] = [{"role": "user", "content": f"Number {number} {PROMPT}"}]
                if number % 2:
                    answer = await many.chat.completions.create(
                        model="tiny", messages=messages, max_tokens=20
                    )
                    return answer.choices[0].message.content or ""
                chunks = await many.chat.completions.create(
                    model="tiny", messages=messages, max_tokens=20, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            texts = await asyncio.gather(*(one(number) for number in range(8)))
            assert all(texts), texts
            assert len(set(texts)) > 4, "each prompt has its own answer"

    asyncio.run(run())


def close_stream(client: OpenAI) -> None:
    chunks = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=ENDLESS, stream=True)
    for _, chunk in zip(range(5), chunks, strict=False):
        assert chunk.choices[0].delta.content
    _pause("streaming")
    chunks.close()
    _pause("cancelled")
    assert client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2).choices


def cancel_task(client: OpenAI) -> None:
    """An answer that is not streamed, given up while it is made."""

    async def run() -> None:
        async with AsyncOpenAI(base_url=client.base_url, api_key=KEY, max_retries=0) as one:
            request = one.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=ENDLESS)
            task = asyncio.create_task(request)
            await asyncio.sleep(0)
            await asyncio.to_thread(_pause, "waiting")
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                await asyncio.to_thread(_pause, "cancelled")
            else:
                raise AssertionError("it was not cancelled")

    asyncio.run(run())


def time_out(client: OpenAI) -> None:
    try:
        client.with_options(timeout=2.0).chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=ENDLESS
        )
    except openai.APITimeoutError:
        _pause("cancelled")
    else:
        raise AssertionError("it did not time out")


def _pause(state: str) -> None:
    """Let the test look at the proxy; it says when to go on."""
    sys.stdout.write(f"{state}\n")
    sys.stdout.flush()
    sys.stdin.readline()


SESSIONS: dict[str, Callable[[OpenAI], None]] = {
    session.__name__: session
    for session in (
        plain,
        stream,
        completions,
        logprobs,
        errors,
        tools,
        asynchronous,
        close_stream,
        cancel_task,
        time_out,
    )
}

if __name__ == "__main__":
    url, *names = sys.argv[1:]
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as user:
        for name in names:
            SESSIONS[name](user)
