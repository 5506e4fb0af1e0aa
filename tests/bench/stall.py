"""Search stalls: small requests beside a session of 64,000 tokens: `make bench WHAT=stall`.

What the server's prompt cache keeps of a long session makes its search for every other prompt slow, for the
whole server. Sixteen small requests come at once, 0 and 5 seconds after the session's last answer, half of
them unrelated, half with the same first 4,000 tokens: how long until their first content, from the server by
itself, and through the proxy, which sends short requests of its own in idle moments. A fresh server is what
both are compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.figures import bar
from tests.real.processes import Gateway, Running, bare_server, guard

REQUESTS, TURNS = 16, 8
#: In characters; the embedded tokenizer has not quite three of English per token.
SHARED_TOKENS, SESSION_TOKENS = 4_000, 64_000
#: An agent runs its tools between two turns.
TOOLS_S = 0.5
LIMIT = 2.0

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """`in_system`: the shared tokens are the system prompt, else the start of the first message.

    `turns`: in how many the session has grown; 1: it is resumed, all at once, and held to nothing: the cure
    itself has the search before it, once.
    """

    name: str
    architecture: str
    in_system: bool
    turns: int = TURNS


#: Prompts of linear attention cannot be cut back in the cache, those of full attention can.
SCENES = (
    Scene("linear", "qwen3_next", in_system=False),
    Scene("full", "qwen3", in_system=True),
    Scene("resumed", "qwen3_next", in_system=False, turns=1),
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds to the first content of each request."""

    all: list[float]

    def __str__(self) -> str:
        return f"median {statistics.median(self.all):6.2f} s, last {max(self.all):6.2f} s"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.all)


class Texts:
    """English-like words, so many that no two texts begin alike by chance."""

    def __init__(self, seed: int, tokens_per_word: float = 3.3) -> None:
        self._draw = random.Random(seed)
        self._tokens_per_word = tokens_per_word
        syllables = [a + b for a in "bdfgklmnprstvw" for b in ("a", "e", "i", "o", "u")]
        self._words = ["".join(self._draw.choices(syllables, k=2)) for _ in range(500)]

    def of(self, tokens: int) -> str:
        return " ".join(self._draw.choices(self._words, k=round(tokens / self._tokens_per_word)))


def session(scene: Scene, texts: Texts, shared: str) -> list[Message]:
    """All messages of a session, each answer of the assistant a short one."""
    each = (SESSION_TOKENS - SHARED_TOKENS) // TURNS
    messages = opening(scene, shared, texts.of(each))
    for _ in range(TURNS - 1):
        messages += [{"role": "assistant", "content": "I look."}, {"role": "user", "content": texts.of(each)}]
    return messages


def opening(scene: Scene, shared: str, text: str) -> list[Message]:
    if scene.in_system:
        return [{"role": "system", "content": shared}, {"role": "user", "content": text}]
    return [{"role": "user", "content": f"{shared} {text}"}]


async def first_content(http: aiohttp.ClientSession, server: Running, messages: list[Message]) -> float:
    """Seconds until the first content; waits for the end of the answer."""
    body = {"messages": messages, "max_tokens": 4, "temperature": 0, "stream": True}
    began, first = time.monotonic(), None
    async with http.post(f"{server.base_url}/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if first is None and line.startswith(b"data: {") and _has_content(line):
                first = time.monotonic() - began
    assert first is not None, "an answer without content"
    return first


def _has_content(line: bytes) -> bool:
    choices = json.loads(line[6:]).get("choices")
    delta = choices[0].get("delta", {}) if choices else {}
    return bool(delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content"))


async def arm(scene: Scene, server: Running, seed: int, wait_s: float | None) -> Times:
    """The session, unless `wait_s` is None, and then all small requests at once."""
    texts = Texts(seed)
    shared = texts.of(SHARED_TOKENS)
    long = session(scene, texts, shared)
    small = [opening(scene, shared, texts.of(20)) for _ in range(REQUESTS // 2)]
    small += [[{"role": "user", "content": texts.of(30)}] for _ in range(REQUESTS // 2)]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=500)) as http:
        if wait_s is not None:
            first_turn = TURNS - scene.turns + 1
            for turn in range(first_turn, TURNS + 1):
                await first_content(http, server, long[: len(long) - 2 * (TURNS - turn)])
                await asyncio.sleep(TOOLS_S if turn < TURNS else wait_s)
        return Times(await asyncio.gather(*(first_content(http, server, each) for each in small)))


@contextmanager
def served(side: str, model: Path, folder: Path) -> Iterator[Running]:
    if side == "bare":
        with bare_server(model, folder) as server:
            yield server
    else:
        with guard(model, folder) as proxy:
            yield proxy


def made(scene: Scene, folder: Path) -> Path:
    """A model whose prompts of 64,000 tokens take little work: the least KV that there is."""
    layers = 2 if scene.architecture == "qwen3_next" else 1
    options = [f"--layers={layers}", "--hidden=32", "--context=131072"]
    command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={folder / scene.architecture}"]
    command += [f"--architecture={scene.architecture}", "--kv-bytes-per-token=128", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / scene.architecture


def play(scene: Scene, side: str, folder: Path, seed: int, wait_s: float | None) -> Times:
    model = made(scene, folder)
    place = Path(tempfile.mkdtemp(dir=folder))
    with served(side, model, place) as server:
        times = asyncio.run(arm(scene, server, seed, wait_s))
        when = "fresh     " if wait_s is None else f"{wait_s:g} s after "
        print(f"{scene.name:8} {side:8} {when}{times}{_of_guard(server)}", flush=True)
    return times


def _of_guard(server: Running) -> str:
    if not isinstance(server, Gateway):
        return ""
    shortcuts, stalls = server.events("search_shortcut_sent"), server.events("search_stall")
    took = sum(shortcut["took_s"] for shortcut in shortcuts)
    measured = ", ".join(f"{stall['predicted_s']:g}/{stall['observed_s']:g}" for stall in stalls)
    text = f"; {len(shortcuts)} search shortcuts in {took:.2f} s"
    return text + (f"; stalls predicted/observed: {measured}" if stalls else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--scene", choices=[scene.name for scene in SCENES], action="append")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    held = []
    with tempfile.TemporaryDirectory() as name:
        for scene in SCENES:
            if options.scene and scene.name not in options.scene:
                continue
            fresh = play(scene, "bare", Path(name), options.seed, None)
            for side in ("bare", "guarded"):
                for wait_s in (0.0, 5.0):
                    times = play(scene, side, Path(name), options.seed, wait_s)
            share = times.mean / fresh.mean
            print(f"{scene.name:8} guarded at 5 s: {share:.2f} times a fresh child's mean")
            if scene.turns > 1:
                held.append(bar(f"stall_{scene.name}_x", round(share, 2), LIMIT))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
