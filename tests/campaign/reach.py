"""No false refusal: `make campaign WHAT=reach [SEED=]`.

How long a prompt is let in alone under a hard memory limit, against the longest that the bare server survives
under the same (by bisection): with its own flags, and with those that the proxy gives its child. The limit is
RLIMIT_DATA, as in the campaign `memory`. What the proxy lets in is then really asked, and must be answered.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.bench.law_stand import prompt_of, tiny
from tests.campaign.memory import MALLOC, data_bytes
from tests.figures import ROOT, bar
from tests.real.processes import Gateway, Running, bare_server, guard, until

LIMIT = 96 * 2**20
#: What the first request, of one token, which makes a server ready, has left behind: it counts as used too.
FIRST = 256 * 16384
#: What the proxy is not told of: memory that is nobody's cache, as Python's own, and stacks of threads, which
#: RLIMIT_DATA counts in full; they are made small.
ELSEWHERE = 4 * 2**20
STACK = 2 * 2**20
CONTEXT, ANSWER = 4096, 16
MODEL = {"kv_bytes_per_token": 16384, "context": CONTEXT, "layers": 4}
#: Lengths are found to this part of them.
PRECISION = 1 / 64
#: Of the longest that is let in: what is shorter must be let in too.
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0)


def body(draw: random.Random, tokens: int) -> bytes:
    return json.dumps({"messages": prompt_of(draw, tokens), "max_tokens": ANSWER, "temperature": 0}).encode()


def answered(server: Running, draw: random.Random, tokens: int) -> bool:
    """Whether the whole answer came."""
    request = urllib.request.Request(f"{server.base_url}/chat/completions", body(draw, tokens))
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            usage: dict[str, Any] = json.loads(answer.read())["usage"]
    except (OSError, ValueError):
        return False
    return bool(usage["completion_tokens"] == ANSWER)


def limit(pid: int) -> None:
    psutil.Process(pid).rlimit(resource.RLIMIT_DATA, (data_bytes(pid) - FIRST + LIMIT,) * 2)


def survives(model: Path, draw: random.Random, flags: Sequence[str], tokens: int) -> bool:
    """Whether a fresh bare server answers one prompt of so many tokens."""
    with tempfile.TemporaryDirectory() as folder, bare_server(model, Path(folder), *flags) as server:
        limit(server.process.pid)
        return answered(server, draw, tokens)


def longest(holds: Callable[[int], bool], low: int, high: int, precision: float) -> int:
    """The largest number up to `high` that holds, to a part of it; `low` is taken for granted."""
    while high - low > precision * high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def explained(proxy: Gateway, draw: random.Random, tokens: int) -> dict[str, Any]:
    request = urllib.request.Request(f"{proxy.url}/mlxguard/api/explain", body(draw, tokens))
    with urllib.request.urlopen(request, timeout=60) as answer:
        document: dict[str, Any] = json.loads(answer.read())
    return document


def retained(proxy: Gateway, draw: random.Random) -> int:
    """Bytes of finished sequences, as the gate knows them."""
    return int(explained(proxy, draw, 1)["cost"]["together"]["retained_bytes"])


def outlook(proxy: Gateway, draw: random.Random, tokens: int) -> str:
    """What the proxy would do with it now; `refused` where a limit on prompts is in the way."""
    document = explained(proxy, draw, tokens)
    verdict = document["verdict"]
    return str(document["cost"]["admission"] if verdict == "unchanged" else verdict)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign reach", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    os.environ.update(MALLOC)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    draw = random.Random(options.seed)
    model = tiny(ROOT / ".out" / "models" / "reach", MODEL)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    settings = {
        "memory.max_active_memory_bytes": weights + LIMIT - ELSEWHERE,
        "upstream.mlx_cache_limit": 2**20,  # the CPU build keeps nothing of what is freed
    }
    words = [f"--set={name}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder, guard(model, Path(folder), *words) as proxy:
        child = psutil.Process(proxy.status()["child"]["pid"])
        words = child.cmdline()
        flags = words[words.index("--prefill-step-size") : words.index("--host")]
        limit(child.pid)
        until("the gate knows what the first request has left", lambda: retained(proxy, draw) > 0)
        let_in = longest(lambda tokens: outlook(proxy, draw, tokens) == "now", 0, CONTEXT, 0)
        shorter = {share: outlook(proxy, draw, round(share * let_in)) for share in SHARES}
        served = answered(proxy, draw, let_in)
        deaths = len(proxy.events("child_died"))
    print(
        f"let in: {let_in} tokens, answered: {served}, deaths: {deaths}; flags {' '.join(flags)}", flush=True
    )
    print(f"shorter ones: {shorter}", flush=True)
    reached = [
        longest(lambda tokens: survives(model, draw, given, tokens), 256, CONTEXT - ANSWER, PRECISION)  # noqa: B023
        for given in ((), flags)
    ]
    print(f"the bare server survives {reached[0]} tokens, with the same flags {reached[1]}", flush=True)
    held = [
        bar("reach_share", let_in / max(reached), 0.9, at_least=True),
        bar("reach_refused", sum(verdict != "now" for verdict in shorter.values()), 0),
        bar("reach_deaths", deaths + (not served), 0),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
