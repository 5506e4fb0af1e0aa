"""Counting and cutting prompts, and what the loop and the cache have of it: `make bench WHAT=fitting`.

Every figure but the first is from the outside, as the gateway has it: with the worker process and its pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from proxy.errors import InvalidRequest
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import Limits, fit
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest
from proxy.request.messages import Message
from proxy.request.parse import parse_chat
from tests.figures import ROOT, bar
from tests.real.processes import Running, bare_server
from tests.real.test_count import serve
from tests.support.conversations import conversation
from tests.support.tokenizer_zoo import KINDS, Kind

CONVERSATIONS, SERVED = 3000, 300
#: Those whose templates differ, with as many kinds of tokenizers as there are.
SERVED_KINDS = (
    "headers-prefix", "alternating-unigram", "no-system-metaspace", "plain-legacy", "thinking-unigram",
    "renderer",
)  # fmt: skip
SESSION_TURNS, SESSION_TOKENS = 200, 100_000
GROWING_TURNS = 100
#: The split of GPT-4's tokenizer, which Llama 3 and Qwen have too.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def embedded(folder: Path) -> Path:
    """The embedded model."""
    command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def code() -> str:
    """Python's own library: what the conversations of coding agents look like."""
    files = sorted(Path(json.__file__).parent.parent.glob("*.py"))
    return "\n".join(file.read_text(errors="ignore") for file in files)


def realistic(base: Path, folder: Path, text: str, template: Path) -> Path:
    """A tokenizer with about as many characters of code per token as those in use."""
    tokenizer = Tokenizer(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text[:2_000_000].splitlines(keepends=True), trainer)
    content = json.loads(tokenizer.to_str())
    shutil.copytree(base, folder)
    shutil.copy(template, folder / "chat_template.jinja")
    kind = Kind("realistic", "", "", markers=(*KINDS[0].markers, "<tool_call>", "</tool_call>"))
    content["added_tokens"] = kind.added(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def exactness(models_folder: Path, base: Path, seed: int, number: int) -> bool:
    """Counts of random conversations against the server's own code."""
    for kind in KINDS:
        kind.make(base, models_folder / kind.name)
    command = [sys.executable, "-m", "tests.support.exactness", str(models_folder), str(seed), str(number)]
    environ = os.environ | {"HF_MODULES_CACHE": str(models_folder / "modules")}
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True)
    outcomes = json.loads(done.stdout)
    for name, outcome in outcomes.items():
        how = "by segments" if outcome["incremental"] else "in full"
        print(f"{name}: {outcome['agreed']} agree, {how}; {outcome['refused']} refused by the template")
        for odd in outcome["different"]:
            print(f"{name}: seed {odd} differs")
    agreed = sum(outcome["agreed"] for outcome in outcomes.values())
    different = sum(len(outcome["different"]) for outcome in outcomes.values())
    enough = bar("fitting_conversations", agreed, CONVERSATIONS, at_least=True)
    return bar("fitting_mismatches", different, 0) and enough


async def served(models_folder: Path, base: Path, seed: int, number: int) -> bool:
    """Counts of random conversations against the usage that the real server reports."""
    kinds = [("embedded", base, KINDS[0])]
    kinds += [(kind.name, models_folder / kind.name, kind) for kind in KINDS if kind.name in SERVED_KINDS]
    share = -(-number // len(kinds))
    agreed = different = 0
    for name, folder, kind in kinds:
        tokens = TokenCounter()
        await tokens.start(folder, [])
        with bare_server(folder, models_folder) as server:
            same, wrong = await _compare(server, tokens, kind, seed, share)
        await tokens.stop()
        print(f"{name}: {same} served with the tokens that we count, {wrong} with others")
        agreed, different = agreed + same, different + wrong
    enough = bar("fitting_served", agreed, SERVED, at_least=True)
    return bar("fitting_served_mismatches", different, 0) and enough


async def _compare(
    server: Running, tokens: TokenCounter, kind: Kind, seed: int, share: int
) -> tuple[int, int]:
    same = wrong = 0
    while same + wrong < share:
        seed += 1
        request = parse_chat(json.dumps(conversation(seed, kind.style)).encode(), Bounds(vocab_size=1024))
        try:
            count = await tokens.count(request.prompt)
        except InvalidRequest:
            continue
        usage = (await asyncio.to_thread(serve, server, request))["usage"]
        same, wrong = same + (usage["prompt_tokens"] == count), wrong + (usage["prompt_tokens"] != count)
    return same, wrong


def session(draw: random.Random, text: str, turns: int, characters: int) -> list[Message]:
    """Turns of a user's short words and an assistant's long ones, all of them code."""

    def excerpt(length: int) -> str:
        start = draw.randrange(len(text) - length)
        return text[start : start + length]

    return [
        {"role": role, "content": excerpt(length)}
        for _ in range(turns)
        for role, length in (("user", characters // 8), ("assistant", characters - characters // 8))
    ]


async def speed(folder: Path, seed: int, text: str) -> float:
    """How much faster the next turn of a long session is counted than the whole; both through the worker."""
    draw = random.Random(seed)
    by_segments, in_full = TokenCounter(), TokenCounter()
    in_full.count_in_full()
    assert (await by_segments.start(folder, [])).incremental
    await in_full.start(folder, [])
    probe = session(draw, text, 100, 2000)
    per_token = 200_000 / await in_full.count(ChatPrompt(tuple(probe)))
    messages = session(draw, text, SESSION_TURNS, round(per_token * SESSION_TOKENS / SESSION_TURNS))
    await by_segments.count(ChatPrompt(tuple(messages)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(30):
        messages += session(draw, text, 1, round(per_token * SESSION_TOKENS / SESSION_TURNS))
        prompt = ChatPrompt(tuple(messages))
        counts = []
        for tokens, taken in zip((by_segments, in_full), times, strict=True):
            started = time.perf_counter()
            counts.append(await tokens.count(prompt))
            taken.append(time.perf_counter() - started)
        assert counts[0] == counts[1]
    await by_segments.stop()
    await in_full.stop()
    # The least of each, as timeit has it: everything else that the machine does only ever adds.
    next_turn, whole = (min(taken) * 1000 for taken in times)
    medians = [statistics.median(taken) * 1000 for taken in times]
    print(f"{folder.name}: {counts[0]} tokens: next turn {next_turn:.1f} ms, in full {whole:.0f} ms", end="")
    print(f" (medians {medians[0]:.1f} and {medians[1]:.0f} ms)")
    return whole / next_turn


async def lag(folder: Path, seed: int, text: str, seconds: float) -> bool:
    """How late the event loop is while new prompts are counted, one after the other, and while it idles."""
    draw = random.Random(seed)
    tokens = TokenCounter()
    await tokens.start(folder, [])
    prompts = [ChatPrompt(tuple(session(draw, text, 200, 1800))) for _ in range(20)]
    counting = True

    async def keep_counting() -> int:
        done = 0
        while counting:
            await tokens.count(prompts[done % len(prompts)])
            done += 1
            if done % len(prompts) == 0:
                await tokens.start(folder, [])  # forgets what it has counted
        return done

    idle = await _lateness(seconds)
    worker = asyncio.create_task(keep_counting())
    busy = await _lateness(seconds)
    counting = False
    done = await worker
    await tokens.stop()
    print(f"loop lag p99.9: idle {idle:.2f} ms, while counting {done} cold prompts {busy:.2f} ms")
    return bar("fitting_loop_lag_ms", busy, idle + 10)


async def _lateness(seconds: float) -> float:
    """p99.9 of how late a timer of one millisecond is, in milliseconds."""
    late = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - now - 0.001) * 1000)
    return statistics.quantiles(late, n=1000)[-1]


Cutter = Callable[[CompletionRequest], Any]


async def stability(base: Path, folder: Path, seed: int, text: str) -> bool:
    """A session that outgrows its limit: which turns keep the last one's prefix, and what the server had."""
    tokens = TokenCounter()
    await tokens.start(base, [])
    probe = await tokens.count(ChatPrompt(tuple(session(random.Random(seed), text, 20, 160))))
    limits = Limits(probe, "truncate", 0, 16, None, 32768)  # twenty turns fit

    async def ours(request: CompletionRequest) -> ChatPrompt:
        prompt = (await fit(request, tokens, limits)).prompt
        assert isinstance(prompt, ChatPrompt)
        return prompt

    async def naive(request: CompletionRequest) -> ChatPrompt:
        """The oldest turns go, as few as possible."""
        assert isinstance(request.prompt, ChatPrompt)
        messages = request.prompt.messages
        while await tokens.count(ChatPrompt(messages)) > probe:
            messages = messages[2:]
        return ChatPrompt(messages)

    kept, cached = await _grow(base, folder, session(random.Random(seed), text, GROWING_TURNS, 160), ours)
    before, missed = await _grow(base, folder, session(random.Random(seed), text, GROWING_TURNS, 160), naive)
    await tokens.stop()
    print(f"turns that keep their prefix: {kept:.0%}; dropping the oldest: {before:.0%}")
    print(f"prompt tokens that the server had cached: {cached:.1%}; dropping the oldest: {missed:.1%}")
    steady = bar("fitting_prefix_kept", kept, 0.9, at_least=True)
    return bar("fitting_cached_share_gain", cached / missed, 1.2, at_least=True) and steady


async def _grow(base: Path, folder: Path, messages: Sequence[Message], cut: Cutter) -> tuple[float, float]:
    """Shares of turns with the last one's messages at their start, and of tokens that the server had."""
    kept, cached, total = 0, 0, 0
    last: tuple[Message, ...] = ()
    with bare_server(base, folder) as server:
        for turn in range(GROWING_TURNS):
            request = CompletionRequest(ChatPrompt(tuple(messages[: 2 * turn + 1])))
            prompt = await cut(request)
            kept += prompt.messages[: len(last)] == last
            last = prompt.messages
            sent = CompletionRequest(prompt)
            usage = (await asyncio.to_thread(serve, server, sent))["usage"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
            total += usage["prompt_tokens"]
    return kept / GROWING_TURNS, cached / total


async def run(seed: int, number: int, seconds: float) -> bool:
    text = code()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = embedded(folder / "embedded")
        headers = realistic(
            base, folder / "code-headers", text, ROOT / "tests" / "templates" / "headers.jinja"
        )
        thinking = realistic(base, folder / "code-thinking", text, base / "chat_template.jinja")
        ratios = [await speed(model, seed, text) for model in (headers, thinking)]
        good = [
            bar("fitting_next_turn_speedup", min(ratios), 40, at_least=True),
            await lag(headers, seed, text, seconds),
            await stability(base, folder, seed, text),
            exactness(folder, base, seed, number),
            await served(folder, base, seed, SERVED + 20),
        ]
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fitting")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--number", type=int, default=CONVERSATIONS + 300, help="random conversations")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring the loop, each time")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    return 0 if asyncio.run(run(arguments.seed, arguments.number, arguments.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
