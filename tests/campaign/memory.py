"""Agents under a hard memory limit, bare and guarded: `make campaign WHAT=memory [SEED=] [N=] [SECONDS=]`.

Three sessions grow by tool results, ask for titles beside it, are left in the middle now and then, and may
generate 65,536 tokens each. The limit is RLIMIT_DATA on the server's process, set when it is ready: an
allocation beyond it really fails, and the server dies of it as it would anywhere.

For each of three seeds: N turns until the bare server dies, with its own defaults; ten times as many turns
through the proxy, which is told nine tenths of the limit; and the same with the bare server and a fixed
number of requests at a time, as many as it survives (found by trying), to compare the speed.

`N` replaces the bare server's turns, `SECONDS` bounds each run. Curves of memory go to .out/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.bench.law_stand import tiny
from tests.campaign.memory_agents import Run, World, work
from tests.figures import ROOT, bar
from tests.real.processes import Guard, Running, bare_server, guard

SEEDS = 3
#: Bytes that may be taken beside what the ready server has.
LIMIT = 640 * 2**20
#: What the proxy is told of it: an operator leaves some for what nobody counts.
TOLD = 0.9
#: The bare server must last so many turns, or the limit would prove nothing.
LEAST_TURNS = 20
MOST_TURNS = 80
TENFOLD = 10
#: Of requests at a time; once more of them are so much slower, still more are not tried.
CONCURRENCIES, SLOWER = (1, 2, 3, 4), 0.9
#: Freed memory goes back to the system at once, as Metal's does: else glibc keeps some, more in each run.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
MODEL = {
    "kv_bytes_per_token": 16384,
    "context": 2048,
    "say": "I have read the file, and changed the line that was wrong. The tests pass now; what is next?",
}
SAMPLE_S = 0.1


def data_bytes(pid: int) -> int:
    """What RLIMIT_DATA counts: private writable memory (Documentation/filesystems/proc.rst, VmData)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")]
    if not sizes:
        raise FileNotFoundError("the process has ended")
    return sizes[0]


class Limited:
    """Holds one server, and whatever follows it, to the limit; keeps the curve and notes deaths."""

    def __init__(self, server: Running, world: World) -> None:
        self._server = server
        self._world = world
        self._pid = 0
        self._before = 0

    async def watch(self) -> None:
        while not self._world.over:
            try:
                await asyncio.to_thread(self._look)
            except (psutil.NoSuchProcess, OSError):
                self._world.curve.append((self._world.now(), 0))
            await asyncio.sleep(SAMPLE_S)

    def _look(self) -> None:
        if isinstance(self._server, Guard):
            pid = self._server.status()["child"]["pid"] or 0
        else:
            pid = self._server.process.pid
            if self._server.process.poll() is not None:
                self._world.died = True
                return
        if pid != self._pid:
            self._pid, self._before = pid, data_bytes(pid)
            psutil.Process(pid).rlimit(resource.RLIMIT_DATA, (self._before + LIMIT,) * 2)
        self._world.curve.append((self._world.now(), data_bytes(pid) - self._before))


async def run(server: Running, world: World) -> Run:
    limited = Limited(server, world)
    watching = asyncio.create_task(limited.watch())
    try:
        await work(server.url, world)
    finally:
        world.stop()
        await watching
    return world.result()


def bare(model: Path, world: World, *flags: str) -> Run:
    with tempfile.TemporaryDirectory() as folder, bare_server(model, Path(folder), *flags) as server:
        return asyncio.run(run(server, world))


def guarded(model: Path, world: World) -> Run:
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    settings = {
        "memory.max_active_memory_bytes": weights + round(TOLD * LIMIT),
        "upstream.mlx_cache_limit": 2**20,  # the CPU build keeps nothing of what is freed
        "queue.max_wait_s": 600,
    }
    words = [f"--set={name}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder, guard(model, Path(folder), *words) as proxy:
        result = asyncio.run(run(proxy, world))
        result.deaths = [line["cause"] for line in proxy.events("child_died")]
        result.events = {
            name: len(proxy.events(name))
            for name in ("ended_for_memory", "reclaimed", "recycle", "memory_mark")
        }
        if kept := os.environ.get("KEEP_LOG"):
            Path(kept).write_text(proxy.text())
        return result


def best_fixed(model: Path, seed: int, turns: int, seconds: float) -> tuple[int, Run | None]:
    """The fastest number of requests at a time that lives through it."""
    best: tuple[int, Run | None] = (0, None)
    for many in CONCURRENCIES:
        flags = (f"--decode-concurrency={many}", f"--prompt-concurrency={many}")
        tried = bare(model, World(seed, turns, seconds, at_once=many), *flags)
        print(f"  {many} at a time: {tried}", flush=True)
        if tried.died:
            break
        if best[1] is not None and tried.speed < SLOWER * best[1].speed:
            break
        if best[1] is None or tried.speed > best[1].speed:
            best = many, tried
    return best


def one_seed(model: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    print(f"seed {seed}", flush=True)
    alone = bare(model, World(seed, MOST_TURNS, options.seconds))
    print(f"  bare: {alone}", flush=True)
    turns = TENFOLD * (options.number or alone.turns)
    proxied = guarded(model, World(seed, turns, options.seconds))
    print(f"  guarded: {proxied}", flush=True)
    many, fixed = best_fixed(model, seed, turns, options.seconds)
    share = proxied.speed / fixed.speed if fixed is not None and fixed.speed else float("inf")
    print(f"  guarded at {share:.2f} of the speed of the best that lives, {many} at a time", flush=True)
    runs = {"bare": alone, "guarded": proxied, "fixed": fixed}
    return {
        "seed": seed,
        "turns": turns,
        "at_a_time": many,
        "share": share,
        "runs": {name: run.document() for name, run in runs.items() if run is not None},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--number", type=int, default=0, help="turns to multiply by ten; 0: the bare server's"
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="bound of each run")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args(argv)
    os.environ.update(MALLOC)
    model = tiny(ROOT / ".out" / "models" / "memory", MODEL)
    results = [one_seed(model, options.seed + number, options) for number in range(options.seeds)]
    path = ROOT / ".out" / f"campaign-memory-{options.seed}.json"
    path.write_text(json.dumps({"limit": LIMIT, "told": TOLD, "seeds": results}))
    print(f"# curves: {path.relative_to(ROOT)}")
    runs = [result["runs"] for result in results]
    done = min(result["runs"]["guarded"]["turns"] / result["turns"] for result in results)
    bars = [
        bar("memory_bare_died", sum(run["bare"]["died"] for run in runs), len(runs), at_least=True),
        bar("memory_bare_turns", min(run["bare"]["turns"] for run in runs), LEAST_TURNS, at_least=True),
        bar("memory_guarded_deaths", sum(len(run["guarded"]["deaths"]) for run in runs), 0),
        bar("memory_guarded_broken", sum(run["guarded"]["broken"] for run in runs), 0),
        bar("memory_guarded_turns_share", done, 1, at_least=True),
        bar("memory_guarded_speed_share", min(result["share"] for result in results), 0.9, at_least=True),
    ]
    return 0 if all(bars) else 1


if __name__ == "__main__":
    sys.exit(main())
