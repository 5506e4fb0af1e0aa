"""Agents whose sessions do not all fit, before and after the rule of sessions: `make bench WHAT=sessions`.

    python -m tests.bench.sessions [--seed N] [--seconds S] [--number AGENTS] [--traces FILE] [--scene NAME]

The same agents work against the bare server with fixed flags (the best of several that live), the gateway as
it was at commit 3d964a8 (a worktree under .out/) and today's gateway, each with a real child of its own, one
side after the other, each for S seconds. The first turns are cold for everybody and are not counted.

The gateways are given a memory limit that leaves room for the kept sequences of three sessions and for a
fourth that runs. The bare server knows no limit; of the fixed flags only those count whose process stayed
below it, by resident memory beside what the ready server had. (A hard limit is of no use at this size: the
stacks of the server's threads are larger than its sessions.)

Scenes: `growing`: every agent's prompt grows by as much in each turn. `fit`: the same by two agents, which
both fit. `recorded`: sizes and pauses of recorded sessions from FILE, which is no part of the project, or
drawn ones of the same statistics; lengths x0.02, pauses x0.05, eight agents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import psutil

from tests.bench.law_stand import tiny
from tests.bench.session_plot import draw
from tests.bench.turns import LOST, Agent, End, Record, Script, Turn
from tests.campaign.memory import MALLOC
from tests.figures import ROOT, bar
from tests.real.processes import Running, bare_server, free_port
from tests.support.recorded_sessions import Session, load

BEFORE = "3d964a8"
TRACES = ROOT.parent / "shared" / "traces" / "coding-agents.jsonl"
#: Slow to read, so that a lost prefix costs what it does on a Mac: 1,300 tokens take about 2 s on two cores.
LAYERS, KV_BYTES_PER_TOKEN = 8, 8192
#: Tokens of a session in the middle of a run, and how many such sessions the limit leaves room for: three
#: kept, and one that runs, which is there twice.
TYPICAL, ROOM = 1900, 5
#: Bytes of the limit that are no KV: what a step works in.
WORK = 8 * 2**20
#: Resident memory that is no memory of MLX: buffers of the allocator, stacks, what Python has.
BESIDE = 24 * 2**20
#: A turn takes this long at most before its agent gives up, and a gateway lets it wait so long.
TIMEOUT_S, MAX_WAIT_S = 240.0, 120.0
SCRIPT = Script(first=1500, grows=40, answer=12, timeout_s=TIMEOUT_S, works_s=0.6)
SHRINK, HASTEN = 0.02, 0.05
#: Flags of the bare server that are tried: all that is sensible for one request at a time, and two for more.
FIXED = (
    ("--prompt-cache-size", "10", "--prompt-cache-bytes", "0.5"),
    ("--prompt-cache-size", "3"),
    ("--prompt-cache-size", "10"),
    ("--prompt-cache-size", "4"),
    ("--prompt-cache-size", "2"),
    ("--prompt-cache-size", "10", "--prompt-cache-bytes", "0.7"),
)
ONE = ("--decode-concurrency", "1", "--prompt-concurrency", "1", "--prefill-step-size", "256")
FOLDER = ROOT / ".out" / "sessions"


@dataclass(frozen=True, slots=True)
class Result:
    """One side of one scene."""

    side: str
    scene: str
    turns: int
    cached: float
    longest_s: float
    mean_s: float
    broken: int
    refused: int
    deaths: int
    peak: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.scene:9s} {self.side:28s} {self.turns:4d} turns in {self.seconds:.0f} s, "
            f"{100 * self.cached:3.0f} % cached, mean {self.mean_s:5.1f} s, longest {self.longest_s:5.1f} s, "
            f"{self.broken} broken, {self.refused} refused, {self.deaths} deaths, {self.peak / 2**20:.0f} MiB"
        )


class Replay(Agent):
    """Replays recorded sessions, one after the other. Each digit is a token."""

    def __init__(self, number: int, record: Record, sessions: Sequence[Session], seed: int) -> None:
        super().__init__(number, SCRIPT, record)
        self._sessions = sessions
        self._random = random.Random(f"{seed} {number}")
        self._system = "".join(random.Random(0).choices("0123456789", k=300))

    async def work(self, http: aiohttp.ClientSession, url: str) -> None:
        for session in self._sessions:
            self._history = []
            for index, turn in enumerate(session.turns):
                self._grow(session, index)
                self._answer = max(4, min(40, int(turn.out * SHRINK * 2)))
                asked = await self._ask(http, url, time.monotonic())
                self._record.turns.append(asked)
                if asked.end is End.COMPACTED:
                    break
                await asyncio.sleep(min(turn.think, 1800.0) * HASTEN if asked.end is End.COMPLETE else 1.0)

    def _grow(self, session: Session, index: int) -> None:
        turn = session.turns[index]
        before = session.turns[index - 1] if index else None
        if before is None or turn.common < 0.9 * before.prompt:
            self._history = [{"role": "system", "content": self._system}]
            self._say(max(8, int(turn.prompt * SHRINK) - len(self._system)))
        else:
            self._say(max(4, int((turn.prompt - before.prompt - before.out) * SHRINK)))


class Watched:
    """Looks at a server's process: its highest memory beside what it had when it was ready, and deaths."""

    def __init__(self, server: Running) -> None:
        self.deaths, self.peak = 0, 0
        self._server = server
        self._pid = self._before = 0

    async def watch(self) -> None:
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(0.05)

    def _look(self) -> None:
        pid = 0 if self._server.process.poll() is not None else self._child()
        with suppress(psutil.NoSuchProcess):
            resident = psutil.Process(pid).memory_info().rss if pid else 0
            if pid != self._pid:
                self.deaths += self._pid != 0
                self._pid, self._before = pid, resident
            self.peak = max(self.peak, resident - self._before)

    def _child(self) -> int:
        code, body = self._server.get("/mlxguard/api/status")
        if code != 200:
            return self._server.process.pid
        return int(json.loads(body)["child"]["pid"] or 0)


def limit_bytes() -> int:
    return WORK + ROOM * TYPICAL * KV_BYTES_PER_TOKEN


@contextmanager
def gateway(tree: Path, model: Path, folder: Path) -> Iterator[Running]:
    """The gateway of a source tree, with its defaults."""
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    port, output = free_port(), folder / "gateway.log"
    settings = {
        "model.path": model,
        "server.port": port,
        "supervisor.state_dir": folder / "state",
        "memory.max_active_memory_bytes": weights + limit_bytes(),
        "upstream.mlx_cache_limit": 2**20,
        "queue.max_wait_s": MAX_WAIT_S,
    }
    words = [f"--set={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-c", "import sys; from proxy.cli import main; sys.exit(main())", *words]
    with output.open("wb") as out:
        environ = os.environ | MALLOC | {"PYTHONPATH": str(tree)}
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out)
    running = Running(process, output, f"http://127.0.0.1:{port}")
    try:
        running.until_ready("/readyz")
        yield running
    finally:
        process.terminate()
        process.wait(60)
        (FOLDER / f"{tree.name}.log").write_bytes(output.read_bytes())


def worktree() -> Path:
    """The project as it was."""
    tree = FOLDER / f"before-{BEFORE}"
    if not tree.exists():
        command = ["git", "worktree", "add", "--detach", str(tree), BEFORE]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return tree


async def played(
    server: Running, agents: Sequence[Agent], seconds: float, record: Record
) -> tuple[int, float]:
    """Let the agents work; what became of the server, and the time at which counting began."""
    watched = Watched(server)
    watching = asyncio.create_task(watched.watch())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        working = [asyncio.create_task(agent.work(http, server.url)) for agent in agents]
        while len({turn.agent for turn in record.turns}) < len(agents) and not watched.deaths:
            await asyncio.sleep(0.05)  # everybody's first turn is cold
        began = time.monotonic()
        while time.monotonic() - began < seconds and not (
            watched.deaths and server.process.poll() is not None
        ):
            await asyncio.sleep(0.1)
        for task in [*working, watching]:
            task.cancel()
        await asyncio.gather(*working, watching, return_exceptions=True)
    return watched, began


def measured(side: str, scene: str, server: Running, o: argparse.Namespace) -> tuple[Result, list[Turn]]:
    record = Record()
    agents = made_agents(scene, record, o)
    watched, began = asyncio.run(played(server, agents, o.seconds, record))
    turns = [turn for turn in record.turns if turn.ended >= began]
    complete = [turn for turn in turns if turn.end is End.COMPLETE]
    took = [turn.ended - turn.began for turn in turns] or [0.0]
    result = Result(
        side,
        scene,
        turns=len(complete),
        cached=sum(turn.cached_tokens for turn in complete) / max(1, sum(t.prompt_tokens for t in complete)),
        longest_s=max(took),
        mean_s=sum(took) / len(took),
        broken=sum(turn.end in LOST for turn in turns),
        refused=sum(turn.end is End.ERROR for turn in turns),
        deaths=watched.deaths,
        peak=watched.peak,
        seconds=o.seconds,
    )
    print(result, flush=True)
    return result, [Turn(**{**asdict(t), "began": t.began - began, "ended": t.ended - began}) for t in turns]


def made_agents(scene: str, record: Record, o: argparse.Namespace) -> list[Agent]:
    if scene != "recorded":
        number = 2 if scene == "fit" else o.number
        return [Agent(100 * o.seed + each, SCRIPT, record) for each in range(number)]
    sessions = load(o.traces, o.seed)
    rng = random.Random(o.seed)
    rng.shuffle(sessions)
    eight = max(8, o.number)
    return [Replay(each, record, sessions[each::eight], o.seed) for each in range(eight)]


def fixed(model: Path, scene: str, o: argparse.Namespace) -> tuple[Result, list[Turn]] | None:
    """The best of the fixed flags that live through it; None if none does."""
    found = []
    for flags in FIXED[: o.tries]:
        words = [
            str(round(float(word) * ROOM * TYPICAL * KV_BYTES_PER_TOKEN)) if word.startswith("0.") else word
            for word in flags
        ]
        with (
            tempfile.TemporaryDirectory() as folder,
            bare_server(model, Path(folder), *ONE, *words) as server,
        ):
            found.append(measured("bare " + " ".join(flags[1::2]), scene, server, o))
    alive = [each for each in found if not each[0].deaths and each[0].peak <= limit_bytes() + BESIDE]
    return max(alive, key=lambda each: each[0].turns, default=None)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--number", type=int, default=6)
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--scene", nargs="*", default=["growing", "fit"])
    parser.add_argument("--tries", type=int, default=len(FIXED), help="fixed flags that are tried")
    parser.add_argument("--sides", default="bare,before,today")
    o = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.update(MALLOC)
    spec = {"layers": LAYERS, "kv_bytes_per_token": KV_BYTES_PER_TOKEN, "context": 16384}
    model = tiny(FOLDER / "model", spec)
    holds = True
    for scene in o.scene:
        results: dict[str, tuple[Result, list[Turn]]] = {}
        if "bare" in o.sides and scene != "fit" and (best := fixed(model, scene, o)) is not None:
            results["fixed"] = best
        for side, tree in (("before", worktree), ("today", lambda: ROOT)):
            if side in o.sides:
                with tempfile.TemporaryDirectory() as folder, gateway(tree(), model, Path(folder)) as server:
                    results[side] = measured(side, scene, server, o)
        (FOLDER / f"{scene}-{o.seed}.json").write_text(
            json.dumps({side: [asdict(turn) for turn in turns] for side, (_, turns) in results.items()})
        )
        draw(
            FOLDER / f"{scene}-{o.seed}.svg", {side: turns for side, (_, turns) in results.items()}, o.seconds
        )
        holds &= judged(scene, {side: result for side, (result, _) in results.items()})
    return 0 if holds else 1


def judged(scene: str, results: dict[str, Result]) -> bool:
    today, before, best = (results.get(side) for side in ("today", "before", "fixed"))
    if today is None:
        return True
    name, least = f"sessions_{scene}", {"growing": 1.5, "recorded": 1.4, "fit": 0.97}[scene]
    held = [bar(f"{name}_deaths", today.deaths, 0), bar(f"{name}_broken", today.broken, 0)]
    if before is not None:
        held.append(
            bar(f"{name}_turns_over_before", today.turns / max(1, before.turns), least, at_least=True)
        )
        if scene == "growing":
            held.append(bar(f"{name}_longest_over_before", today.longest_s / max(0.1, before.longest_s), 2.5))
    if best is not None:
        held.append(bar(f"{name}_turns_over_fixed", today.turns / max(1, best.turns), least, at_least=True))
    if scene == "growing":
        held.append(bar(f"{name}_cached_share", today.cached, 0.55, at_least=True))
    return all(held)


if __name__ == "__main__":
    sys.exit(main())
