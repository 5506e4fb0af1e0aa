from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from proxy.errors import CountingStalled, InvalidRequest, Unavailable
from proxy.prompt.counter import TokenCounter, TokenizerInfo, TokenizerUnavailable, client_error
from proxy.prompt.turns import ASKER, Asker
from proxy.prompt.worker_process import TokenizerRefused
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt
from proxy.request.template_traits import TemplateTraits
from proxy.worker.images import BadImage

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one worker serves most of the tests

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEXT = "def größe(x): # 漢字 👩‍👩‍👧 naïve\n    return x\n" * 60
SECRET_CHAT = ChatPrompt(({"role": "user", "content": "secret"},))
SECRET_TEXT = TextPrompt("secret")


def said(*contents: str) -> ChatPrompt:
    roles = ("user", "assistant")
    return ChatPrompt(tuple({"role": roles[i % 2], "content": c} for i, c in enumerate(contents)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tokens(tiny_model: Path) -> AsyncIterator[TokenCounter]:
    client = TokenCounter(stall_s=30)
    await client.start(tiny_model, [])
    yield client
    await client.stop()


async def test_what_is_known_of_the_model(tokens: TokenCounter) -> None:
    traits = TemplateTraits(switches=("enable_thinking",))
    assert tokens.info == TokenizerInfo(1024, 32768, True, True, True, True, template=traits)


async def test_many_counts_at_once_each_get_their_own(tokens: TokenCounter) -> None:
    alone = [await tokens.count(said("word " * n)) for n in range(20)]
    assert await asyncio.gather(*(tokens.count(said("word " * n)) for n in range(20))) == alone
    assert alone == sorted(set(alone))


async def test_a_cancelled_count_disturbs_no_other(tokens: TokenCounter) -> None:
    expected = await tokens.count(said("hi"))
    doomed = asyncio.create_task(tokens.count(TextPrompt("x " * 200_000)))
    other = asyncio.create_task(tokens.count(said("hi")))
    await asyncio.sleep(0)
    doomed.cancel()
    assert await other == expected
    with pytest.raises(asyncio.CancelledError):
        await doomed


async def test_a_killed_worker_is_replaced_and_what_was_pending_is_asked_again(tokens: TokenCounter) -> None:
    expected, first = await tokens.count(said("hi")), tokens.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    pending = [asyncio.create_task(tokens.count(said("hi"))) for _ in range(5)]
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    assert await asyncio.gather(*pending) == [expected] * 5
    assert tokens.pid != first


async def test_a_growing_conversation_is_counted_as_if_it_were_new(
    tokens: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has the messages already, but for the last, and dies once; the server would be sent all."""

    async def in_full(prompt: ChatPrompt) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(tokens, "_incremental", False)
            return await tokens.count(prompt)

    contents = [f"{number} {TEXT[:900]}" for number in range(14)]
    for turn in range(1, 6):
        contents += [f"answer {turn}", "<|im_end|>" * turn]
        for prompt in (said(*contents), said(*contents[:-1], "other"), said(*contents[: 14 + turn])):
            assert await tokens.count(prompt) == await in_full(prompt)
        if turn == 3:
            assert tokens.pid is not None
            os.kill(tokens.pid, signal.SIGKILL)
            assert await tokens.count(said(*contents)) == await in_full(said(*contents))


async def test_a_prompt_is_predicted_with_its_count(tokens: TokenCounter) -> None:
    whole, expected = said(TEXT, "answer", "more"), await tokens.count(said(TEXT, "answer", "more"))
    assert await tokens.count_and_predict(whole, None, of="a", batched=True) == (expected, None), "no child"
    await tokens.ask_predictor("reset", rules={}, max_cost=1000)
    count, told = await tokens.count_and_predict(whole, None, of="a", batched=True)
    assert told is not None
    assert count == told["tokens"] == expected
    assert told["inserts"][-1] == expected - 1
    _, told = await tokens.count_and_predict(whole, expected - 1, of="a", batched=True)
    assert told is None, "it will not be sent as it is"


async def test_only_the_request_that_a_worker_sits_on_is_refused(tiny_model: Path) -> None:
    tokens = TokenCounter(stall_s=1.0)
    await tokens.start(tiny_model, ["--chat-template", ENDLESS])
    hung = asyncio.create_task(tokens.count(said("hi")))
    behind = asyncio.create_task(tokens.count(TextPrompt("hi")))
    with pytest.raises(CountingStalled) as caught:
        await hung
    assert caught.value.headers(10) == {"x-should-retry": "false"}
    assert await behind == 1
    worker = tokens.pid
    with pytest.raises(CountingStalled):
        await tokens.count(said("hi"))
    assert tokens.pid == worker, "what stalled a worker once gets no other"
    await tokens.stop()


async def test_a_small_prompt_overtakes_the_large_ones_of_clients_that_have_left(
    tokens: TokenCounter,
) -> None:
    """25 prompts of 0.9 MB, each different, held a small chat for two minutes."""
    large = [TextPrompt(f"{number} " + TEXT * (900_000 // len(TEXT))) for number in range(25)]

    async def ask(client: str, prompt: TextPrompt) -> int:
        ASKER.set(Asker(client, len(prompt.text)))
        return await tokens.count(prompt)

    one = time.monotonic()
    await tokens.count(large[0])
    one = time.monotonic() - one
    asking = [asyncio.create_task(ask("greedy", prompt)) for prompt in large[1:]]
    await asyncio.sleep(0.05)
    for task in asking:
        task.cancel()
    begun = time.monotonic()
    assert await ask("honest", TextPrompt("hi")) == 1
    assert time.monotonic() - begun < 3 * one + 0.5, "at most what the worker had already"
    await asyncio.wait(asking)


async def test_more_than_may_wait_are_told_to_come_back(tiny_model: Path) -> None:
    tokens = TokenCounter(stall_s=30, most_pending=2)
    await tokens.start(tiny_model, [])
    counts = await asyncio.gather(*(tokens.count(said("hi")) for _ in range(3)), return_exceptions=True)
    assert [type(count) for count in counts] == [int, int, Unavailable]
    await tokens.stop()


async def test_without_a_worker_there_is_no_count() -> None:
    with pytest.raises(Unavailable):
        await TokenCounter().count(said("hi"))


async def test_stopping_leaves_nothing_behind(tiny_model: Path) -> None:
    tokens = TokenCounter()
    await tokens.start(tiny_model, ["--chat-template", ENDLESS])
    pid, pending = tokens.pid, asyncio.create_task(tokens.count(said("hi")))
    await asyncio.sleep(0)
    await tokens.stop(grace_s=5)  # its reader sees the end of the input even while the template runs
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(Unavailable):
        await pending


async def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnavailable, match=r"config\.json"):
        await TokenCounter().start(tmp_path, [])


async def test_a_load_that_takes_too_long(tiny_model: Path) -> None:
    with pytest.raises(TokenizerUnavailable, match="not loaded within"):
        await TokenCounter(load_s=0.01).start(tiny_model, [])


async def test_the_gateway_killed_leaves_no_worker(tiny_model: Path) -> None:
    script = f"""
import asyncio, os
from pathlib import Path
from proxy.prompt.counter import TokenCounter
async def main():
    tokens = TokenCounter()
    await tokens.start(Path({str(tiny_model)!r}), [])
    print(tokens.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    command = (sys.executable, "-c", script)
    gateway = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert gateway.stdout is not None
    worker = psutil.Process(int(await gateway.stdout.readline()))
    gateway.kill()
    await gateway.wait()
    assert psutil.wait_procs([worker], timeout=5)[1] == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (({"role": "robot", "content": "hi"},), "unknown role"),
        (({"role": "assistant", "content": "", "tool_calls": [5]},), "does not accept"),
    ],
)
async def test_what_a_template_refuses_is_the_clients_fault(
    tokens: TokenCounter, messages: Any, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        await tokens.count(ChatPrompt(messages))
    assert caught.value.param == "messages"
    assert await tokens.count(said("hi")) > 0


async def test_the_servers_template_flags_count(tiny_model: Path, tokens: TokenCounter) -> None:
    unthinking = TokenCounter()
    await unthinking.start(tiny_model, ["--model", "x", "--chat-template-args", '{"enable_thinking": false}'])
    off, on = ({"enable_thinking": flag} for flag in (False, True))
    prompt = said("hi")
    plain = await tokens.count(prompt)
    assert (
        await unthinking.count(prompt) == await tokens.count(ChatPrompt(prompt.messages, None, off)) > plain
    )
    assert await unthinking.count(ChatPrompt(prompt.messages, None, on)) == plain
    await unthinking.stop()


async def test_without_a_template_the_server_has_one_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(
        tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.jinja", "*.safetensors")
    )
    tokens = TokenCounter()
    assert not (await tokens.start(folder, [])).has_chat_template
    assert await tokens.count(said("hi")) == await tokens.count(TextPrompt("USER: hi\nASSISTANT:"))
    await tokens.stop()


async def test_how_much_two_prompts_share(tokens: TokenCounter) -> None:
    first, second = said("one two", "three", "four"), said("one two", "three", "five")
    assert await tokens.shared(first, first) == await tokens.count(first)
    assert 0 < await tokens.shared(first, said("other")) < await tokens.shared(first, second)


@pytest.mark.parametrize("head", [0, 7])
@pytest.mark.parametrize("limit", [8, 50, 333])
async def test_a_text_loses_its_middle(tokens: TokenCounter, head: int, limit: int) -> None:
    whole = TextPrompt(TEXT)
    shorter, count = await tokens.trim(whole, head, limit)
    assert await tokens.count(shorter) == count <= limit
    assert count > limit - 8
    assert await tokens.shared(whole, shorter) >= head
    assert TEXT.endswith(shorter.text[-20:] if count > 40 else "\n")


async def test_a_huge_prompt_far_over_the_limit_is_estimated(tokens: TokenCounter) -> None:
    huge = TEXT * (1_200_000 // len(TEXT))
    exact = await tokens.count(TextPrompt(huge))
    for prompt in (TextPrompt(huge), said(huge)):
        assert abs(await tokens.count(prompt, limit=1000) - exact) < exact / 50
    shorter, count = await tokens.trim(TextPrompt(huge), 10, 1000)
    assert 990 < count <= 1000
    assert await tokens.count(shorter, limit=1000) == count


async def test_a_count_that_the_server_does_not_share_ends_counting_by_parts(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokenCounter()
    assert (await tokens.start(tiny_model, [])).incremental
    asked: list[bool] = []
    ask = tokens._ask_worker
    tokens._ask_worker = lambda request, turn=None: asked.append(request["incremental"]) or ask(request, turn)  # type: ignore[method-assign,func-returns-value]
    count = await tokens.count(said("hi"))
    tokens.check(count, count)
    assert await tokens.count(said("hi")) == count
    tokens.check(count, count + 1)
    tokens.check(count, count + 1)
    assert await tokens.count(said("hi")) == count
    assert asked == [True, True, False]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["count_drift"]
    await tokens.stop()


async def test_a_template_that_hangs_does_not_keep_the_tokenizer_from_loading(tiny_model: Path) -> None:
    tokens = TokenCounter(load_s=60)
    assert not (await tokens.start(tiny_model, ["--chat-template", ENDLESS])).incremental
    assert await tokens.count(TextPrompt("hi")) == 1
    await tokens.stop()


@pytest.mark.parametrize(
    ("prompt", "kind", "said", "told"),
    [
        (
            SECRET_CHAT,
            "TemplateError",
            "no roles after 503",
            "The model's chat template says: no roles after N",
        ),
        (SECRET_CHAT, "TemplateError", "x" * 999, "The model's chat template says: " + "x" * 200),
        (SECRET_CHAT, "TemplateError", "length 9!", "The model's chat template says: length 9!"),
        (
            SECRET_CHAT,
            "UndefinedError",
            "'dict object' has no attribute 'description'",
            "The model's chat template fails: UndefinedError: 'dict object' has no attribute 'description'",
        ),
        (
            SECRET_CHAT,
            "KeyError",
            "secret",
            "The model's chat template does not accept this conversation (KeyError).",
        ),
        (SECRET_CHAT, BadImage.__name__, "an image of no pixels", "an image of no pixels"),
        (SECRET_TEXT, "OverflowError", "secret", "The model's tokenizer does not accept it."),
    ],
)
async def test_only_the_text_of_a_template_is_passed_on(
    prompt: Prompt, kind: str, said: str, told: str
) -> None:
    error = client_error(TokenizerRefused(kind, said), prompt)
    assert isinstance(error, InvalidRequest)
    assert str(error) == told
    assert error.param == ("messages" if prompt is SECRET_CHAT else "prompt")


async def test_the_error_names_the_tools_where_the_conversation_renders_without_them(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% for t in tools or [] %}{{ t.function.description.strip() }}{% endfor %}"
    )
    counter = TokenCounter(load_s=60)
    await counter.start(tiny_model, ["--chat-template", template])
    with pytest.raises(InvalidRequest, match="no attribute 'description'") as refusal:
        tools = ({"type": "function", "function": {"name": "f"}},)
        await counter.count(ChatPrompt(({"role": "user", "content": "hi"},), tools=tools))
    await counter.stop()
    assert refusal.value.param == "tools"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "prompt_refused"
    ]


async def test_lack_of_memory_is_not_the_clients_fault() -> None:
    error = client_error(TokenizerRefused("MemoryError", "secret"), SECRET_CHAT)
    assert isinstance(error, Unavailable)
    assert error.reason == "tokenizer_memory"
