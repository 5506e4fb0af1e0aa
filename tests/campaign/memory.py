"""Agents under a hard memory limit, bare and guarded: `make campaign WHAT=memory [SEED=] [N=] [SECONDS=]`.

Three sessions grow by tool results, ask for titles beside it, are left in the middle now and then, and may
generate 65,536 tokens each. The limit is RLIMIT_DATA on the server's process, set when it is ready: an
allocation beyond it really fails, and the server dies of it as it would anywhere.

For each of three seeds: N turns until the bare server dies, with its own defaults. Then ten times as many
turns through the proxy, which is told nine tenths of the limit, and by the bare server with the best fixed
number of requests at a time that it survives (found by trying, N turns each): by turns of some seconds, since
the speeds are compared and the machine may have other things to do.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.law_stand import tiny
from tests.campaign.memory_agents import work
from tests.campaign.memory_world import Run, World, take_turns
from tests.figures import ROOT, bar
from tests.real.processes import Gateway, Running, bare_server, guard

SEEDS = 3
#: Bytes that may be taken beside what the ready server has.
LIMIT = 520 * 2**20
#: What the proxy is told of it: an operator leaves some for what nobody counts.
TOLD = 0.9
#: The bare server must last so many turns, or the limit would prove nothing.
LEAST_TURNS = 20
MOST_TURNS = 80
TENFOLD = 10
#: Of requests at a time.
CONCURRENCIES = (1, 2, 3, 4)
#: Freed memory goes back to the system at once, as Metal's does: else glibc keeps some, more in each run.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
MODEL = {
    "kv_bytes_per_token": 16384,
    "context": 2048,
    "say": "I have read the file, and changed the line that was wrong. The tests pass now; what is next?",
}
SAMPLE_S = 0.1
#: Each side works so long while the other rests.
SLICE_S = 10.0
#: Of the proxy's log, counted.
EVENTS = ("request_ended_for_memory", "reclaimed", "recycle", "memory_pressure")


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
                if not self._world.rests or not self._pid:
                    await asyncio.to_thread(self._look)
            except (psutil.NoSuchProcess, OSError):
                self._world.curve.append((self._world.now(), 0))
            await asyncio.sleep(SAMPLE_S)

    def _look(self) -> None:
        if isinstance(self._server, Gateway):
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


async def run(*sides: tuple[Running, World]) -> list[Run]:
    """The sides by turns; more than one share the machine, and each has a limit of its own."""
    watching = [asyncio.create_task(Limited(server, world).watch()) for server, world in sides]
    working = [asyncio.create_task(work(server.url, world)) for server, world in sides]
    worlds = [world for _, world in sides]
    try:
        await take_turns(worlds, SLICE_S)
        await asyncio.gather(*working)
    finally:
        for world in worlds:
            world.stop()
        await asyncio.gather(*watching)
    return [world.result() for world in worlds]


@contextmanager
def bare(model: Path, *flags: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder, bare_server(model, Path(folder), *flags) as server:
        yield server


@contextmanager
def guarded(model: Path) -> Iterator[Gateway]:
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    settings = {
        "memory.max_active_memory_bytes": weights + round(TOLD * LIMIT),
        "upstream.mlx_cache_limit": 2**20,  # the CPU build keeps nothing of what is freed
        "queue.max_wait_s": 600,
    }
    words = [f"--set={name}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder, guard(model, Path(folder), *words) as proxy:
        yield proxy


def alone(model: Path, world: World, *flags: str) -> Run:
    with bare(model, *flags) as server:
        return asyncio.run(run((server, world)))[0]


def at_a_time(many: int) -> tuple[str, str]:
    return f"--decode-concurrency={many}", f"--prompt-concurrency={many}"


def best_fixed(model: Path, seed: int, turns: int, seconds: float) -> int:
    """The fastest number of requests at a time that lives through it."""
    worlds = {many: World(seed, turns, seconds, at_once=many) for many in CONCURRENCIES}
    with ExitStack() as servers:
        sides = [
            (servers.enter_context(bare(model, *at_a_time(many))), world) for many, world in worlds.items()
        ]
        tried = dict(zip(worlds, asyncio.run(run(*sides)), strict=True))
    for many, result in tried.items():
        print(f"  {many} at a time: {result}", flush=True)
    return max((many for many in tried if not tried[many].died), key=lambda many: tried[many].speed)


def side_by_side(model: Path, seed: int, turns: int, seconds: float, many: int) -> tuple[Run, Run]:
    """The guarded server, and the bare one with so many at a time."""
    worlds = World(seed, turns, seconds), World(seed, turns, seconds, at_once=many)
    with guarded(model) as proxy, bare(model, *at_a_time(many)) as server:
        ours, theirs = asyncio.run(run((proxy, worlds[0]), (server, worlds[1])))
        ours.deaths = [line["cause"] for line in proxy.events("child_died")]
        ours.events = {name: len(proxy.events(name)) for name in EVENTS}
    return ours, theirs


def one_seed(model: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    print(f"seed {seed}", flush=True)
    first = alone(model, World(seed, MOST_TURNS, options.seconds))
    print(f"  bare: {first}", flush=True)
    number = options.number or first.turns
    many = best_fixed(model, seed, number, options.seconds)
    proxied, fixed = side_by_side(model, seed, TENFOLD * number, options.seconds, many)
    share = proxied.speed / fixed.speed
    print(f"  guarded: {proxied}\n  {many} at a time: {fixed}", flush=True)
    print(f"  guarded at {share:.2f} of the speed of the best that lives, {many} at a time", flush=True)
    runs = {"bare": first, "guarded": proxied, "fixed": fixed}
    return {
        "seed": seed,
        "turns": TENFOLD * number,
        "at_a_time": many,
        "share": share,
        "runs": {name: run.document() for name, run in runs.items()},
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
