"""Faults befall the bare server and the guarded one alike: `make campaign WHAT=survival [SECONDS=]`.

The same agents in growing sessions, half of them streaming, and the same faults at the same times: it is
killed, its generation thread dies of a request that another program sends, it crashes, it is stopped. The
bare server has what people give it: a process manager that starts it again when it has exited.

Beside it the endurance under a memory limit, as `make campaign WHAT=memory` has left it, with both curves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.document import PAGE, Table, publish
from tests.bench.law_stand import tiny
from tests.bench.turns import LOST, Agent, End, Record, Script
from tests.campaign.memory_plot import picture
from tests.figures import ROOT, bar
from tests.real.faults_of_children import FAULTS
from tests.real.processes import Gateway, free_port, guard
from tests.real.venvs import environment

AGENTS = 4
#: Tokens; each digit is one. Compaction is the agents' own matter: sessions stay within the context.
#: Tools run between turns: else each server is behind all the time, and most time without service is that.
SCRIPT = Script(first=120, grows=24, answer=24, timeout_s=60.0, works_s=1.0)
MODEL = {"layers": 8}
#: One after each fifth of the time.
BEFALLS = ("sigkill", "thread-death", "sigsegv", "stopped")
#: The default is for large models; a tiny one is never silent for long.
SETTINGS = {"supervisor.stall_s": 10, "supervisor.canary_timeout_s": 2}
#: Makes a PNG of an SVG, with the fonts of the system.
RESVG = "resvg-py==0.5.0"
FONT = "Helvetica" if sys.platform == "darwin" else "DejaVu Sans"
_TO_PNG = (
    "import sys, resvg_py; sys.stdout.buffer.write(bytes(resvg_py.svg_to_bytes("
    f"svg_string=sys.stdin.read(), width=1100, sans_serif_family={FONT!r})))"
)


@dataclass(slots=True)
class Side:
    """What became of the turns of one side."""

    name: str
    seconds: float
    record: Record
    began: float

    @property
    def lost(self) -> int:
        return self.record.count(LOST)

    @property
    def survived(self) -> int:
        return self.record.count([End.COMPLETE])

    @property
    def without_service_s(self) -> float:
        return self.record.without_service_s(self.began, self.began + self.seconds)

    def row(self) -> tuple[str, ...]:
        ends = (End.RESET, End.EMPTY, End.CUT, End.SILENT)
        kinds = ", ".join(str(self.record.count([end])) for end in ends)
        tokens = sum(turn.completion_tokens for turn in self.record.turns)
        return (
            self.name,
            str(self.survived),
            f"{self.lost} ({kinds})",
            str(self.record.count([End.ERROR])),
            f"{self.without_service_s:.1f} of {self.seconds:.0f}",
            f"{tokens / self.seconds:.1f}",
        )


class Kept:
    """The bare server under a process manager, which knows of exits and of nothing else."""

    def __init__(self, model: Path, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = ["--model", str(model), "--port", str(self.port)]
        self._command = [sys.executable, "-m", "mlx_lm", "server", *words]
        self._log = log
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(self._command, stdout=output, stderr=output)

    def child(self) -> dict[str, Any]:
        return {"pid": self._process.pid, "port": self.port}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            self._process.kill()
            self._process.wait()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self._process.poll() is not None:
                self._process = self._start()


async def befall(name: str, url: str, child: Callable[[], dict[str, Any]], seconds: float) -> Side:
    """The agents at work for so long, and the faults in the middle of it."""
    record = Record()
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        await _first_token(http, url)
        began = time.monotonic()
        agents = [asyncio.create_task(Agent(n, SCRIPT, record).work(http, url)) for n in range(AGENTS)]
        for number, fault in enumerate(BEFALLS, 1):
            await asyncio.sleep(began + seconds * number / (len(BEFALLS) + 1) - time.monotonic())
            await FAULTS[fault](http, await asyncio.to_thread(child))
        await asyncio.sleep(began + seconds - time.monotonic())
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
    return Side(name, seconds, record, began)


async def _first_token(http: aiohttp.ClientSession, url: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    while True:
        try:
            async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
                if answer.status == 200 and await answer.read():
                    return
        except aiohttp.ClientError:
            pass  # it does not listen yet
        await asyncio.sleep(0.1)


async def bare(model: Path, folder: Path, seconds: float) -> Side:
    server = Kept(model, folder / "bare.log")
    async with server.running():
        return await befall("bare, started again when it exits", server.url, server.child, seconds)


def guarded(model: Path, folder: Path, seconds: float) -> Side:
    words = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    with guard(model, folder, *words) as proxy:
        return asyncio.run(befall("guarded", proxy.url, lambda: _child(proxy), seconds))


def _child(proxy: Gateway) -> dict[str, Any]:
    child: dict[str, Any] = proxy.status()["child"]
    return child


# --- endurance under a memory limit -------------------------------------------------------------------


def endurance() -> Table | None:
    """What the newest memory campaign found, and its curves as a picture; None if there was none."""
    found = sorted((ROOT / ".out").glob("campaign-memory-*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        print("# no curves of memory: make campaign WHAT=memory comes first")
        return None
    document = json.loads(found[-1].read_text())
    draw(document)
    rows = []
    for seed in document["seeds"]:
        sides = {"bare": "bare", "guarded": "guarded", "fixed": f"bare, {seed['at_a_time']} at a time"}
        for name, words in sides.items():
            run = seed["runs"][name]
            peak = max(size for _, size in run["curve"]) / 2**20
            rows.append((
                f"{words}, seed {seed['seed']}",
                f"{run['turns']} of {seed['turns']}",
                str(run["broken"]),
                "yes" if run["died"] or run["deaths"] else "no",
                f"{run['speed']:.1f}",
                f"{peak:.0f} of {document['limit'] / 2**20:.0f}",
            ))  # fmt: skip
    return Table(("side", "turns survived", "answers lost", "died", "tokens/s", "peak, MiB"), rows)


def draw(document: dict[str, Any]) -> None:
    """The picture goes to the docs where tables do."""
    target = PAGE.with_name("memory.png") if os.environ.get("DOCUMENT") else ROOT / ".out" / "memory.png"
    command = [environment(RESVG) / "python", "-c", _TO_PNG]
    drawn = subprocess.run(command, input=picture(document).encode(), stdout=subprocess.PIPE, check=True)
    target.write_bytes(drawn.stdout)
    print(f"# both curves of memory: {target.relative_to(ROOT)}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign survival")
    parser.add_argument("--seed", type=int, default=0, help="nothing is drawn here")
    parser.add_argument("--number", help="nothing is counted here")
    parser.add_argument("--seconds", type=float, default=100.0, help="for each side")
    options = parser.parse_args(argv)
    model = tiny(ROOT / ".out" / "models" / "survival", MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        theirs = asyncio.run(bare(model, folder, options.seconds))
        ours = guarded(model, folder / "guarded", options.seconds)
    head = ("side", "turns survived", "lost (reset, empty, cut, silent)", "told", "no service, s", "tokens/s")
    publish("survival", Table(head, [theirs.row(), ours.row()]), f"{AGENTS} agents; {', '.join(BEFALLS)}.")
    if (table := endurance()) is not None:
        shown = "![Memory of both servers over time](memory.png)"
        publish("endurance", table, f"{shown}\n\nThe newest run of the memory campaign.")
    good = [
        bar("survival_guarded_lost", ours.lost, 0),
        bar("survival_turns_gained", ours.survived / max(1, theirs.survived), 1.0, at_least=True),
        bar("survival_no_service_s", ours.without_service_s, theirs.without_service_s),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
