"""What tiny requests take back from a real child after a mixed batch, without a restart.

    make bench WHAT=reclaim [SEED=]

Ten chats of unlike lengths run together, some are left in the middle, and more follow one by one: the prompt
cache is full of answers and prompts, and what they pin. Then tiny requests go to it as the proxy sends them
(proxy/cache/eviction.py), one after the other. The bar is what is active after twenty at most, as a
multiple of what the same child had when it was fresh. For comparison, completions alone: what the server
does not drop for them stays.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from proxy.cache.client import CacheClient
from proxy.cache.eviction import FillerRequest
from proxy.cache.eviction import filler as as_the_proxy
from proxy.cache.internal_requests import InternalRequests
from proxy.cache.search_times import SearchTimes
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.prompt.counter import TokenCounter
from proxy.upstream.client import Upstream
from supervisor.child.generation import Generation
from supervisor.supervisor import Supervisor
from tests.bench.law_stand import Stand, prompt_of, stand, tiny
from tests.figures import ROOT, bar

TINY = 20
LIMIT = 1.5
#: Weights of some 9,000 tokens' KV, less than real models have: ten tiny entries weigh more here.
MODEL = {"hidden": 512, "layers": 8, "kv_bytes_per_token": 8192}
#: Step, decode and prompt concurrency, and the server's own ten sequences.
FLAGS = (512, 4, 2, 10)


@dataclass(frozen=True, slots=True)
class Chat:
    """Sizes in tokens. `left`: its client leaves as soon as the child has begun on it."""

    prompt: int
    answer: int
    left: bool = False


#: Four run at a time; an answer of 200 tokens is not finished when its client leaves.
TOGETHER = (
    *(Chat(*size) for size in ((600, 20), (150, 10), (900, 16), (1000, 12), (100, 20), (700, 5))),
    *(Chat(prompt, 200, left=True) for prompt in (350, 250, 300, 200)),
)
AFTERWARDS = tuple(Chat(prompt, 200, left=True) for prompt in (150, 400, 700))


class _Serves:
    """A supervisor of one child that is always ready."""

    def __init__(self, port: int) -> None:
        self._generation = Generation(1, port, lambda: None, lambda: None)

    async def ready(self, timeout_s: float) -> Generation:
        del timeout_s
        return self._generation


class _NoPredictor:
    """A token counter whose worker predicts nothing."""

    def tell_predictor(self, do: str, **fields: Any) -> None: ...

    async def ask_predictor(self, do: str, prompt: Any = None, **fields: Any) -> None: ...


async def run(child: Stand, seed: int, only_completions: bool) -> list[float]:
    """MB that are active: of the fresh child, after the batch, after each tiny request."""
    draw = random.Random(seed)
    upstream = Upstream()
    own = InternalRequests(
        cast("Supervisor", _Serves(child.port)),
        Gate(Budget(max_running=99), max_waiting=99, on_sample=lambda _: None),
        upstream,
        CacheClient(cast("TokenCounter", _NoPredictor()), SearchTimes(lambda _: None)),
        on_sent=lambda *_: None,
    )
    active = [await _active(child)]
    await asyncio.gather(*(_ask(child, own, draw, chat) for chat in TOGETHER))
    for chat in AFTERWARDS:
        await _ask(child, own, draw, chat)
    active.append(await _active(child))
    for number in range(TINY):
        each = _completion(number) if only_completions else as_the_proxy(number)
        assert await own.send("eviction", each.body, abandon=each.abandon)
        active.append(await _active(child))
    await upstream.stop()
    return active


async def _ask(child: Stand, own: InternalRequests, draw: random.Random, chat: Chat) -> None:
    messages = prompt_of(draw, chat.prompt, 20)
    if chat.left:
        await own.send("eviction", {"messages": messages, "max_tokens": chat.answer}, abandon=True)
        await asyncio.sleep(1.0)  # the child notices at its next write
    else:
        await asyncio.to_thread(child.ask, messages, chat.answer)


def _completion(number: int) -> FillerRequest:
    return FillerRequest({"prompt": f"{number:06d}", "max_tokens": 1, "temperature": 0}, abandon=False)


async def _active(child: Stand) -> float:
    return (await asyncio.to_thread(child.memory))["active"] / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench reclaim")
    parser.add_argument("--seed", type=int, default=0)
    options, _ = parser.parse_known_args(argv)
    model, best = tiny(ROOT / ".out" / "models" / "reclaim", MODEL), float("inf")
    for only_completions in (True, False):
        with (
            tempfile.TemporaryDirectory() as folder,
            stand(model, FLAGS, Path(folder) / "child.log") as child,
        ):
            child.ready()
            fresh, full, *after = asyncio.run(run(child, options.seed, only_completions))
        name = "completions alone" if only_completions else "as the proxy does"
        print(
            f"{name}: fresh {fresh:.0f} MB, after the batch {full:.0f} MB; x fresh after each tiny request:"
        )
        print("  " + " ".join(f"{size / fresh:.2f}" for size in after), flush=True)
        best = after[-1] / fresh
    return 0 if bar("reclaim_of_fresh", best, LIMIT) else 1


if __name__ == "__main__":
    sys.exit(main())
