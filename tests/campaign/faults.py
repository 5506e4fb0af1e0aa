"""Random faults in random phases of the real child: `make campaign WHAT=faults [SEED=] [N=] [SECONDS=]`.

Eight clients (openai-python and raw sockets, streaming and not) ask without pause; each fault is brought
about in a phase that status confirms. Afterwards every answer is looked at together with the proxy's log.

An innocent is a request that had seen no content when the child died, endured two deaths at most, and had
time left; or one that completed. All of them must complete, and they must be the bulk of all requests.

To anybody who looks, a crash may be the doing of who ran, and twice is proof. So the faults that look like
a request's doing are not brought about while anybody is there who endured a death; the others at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.campaign.clients import CLIENTS, Heard, Result, ask
from tests.campaign.orphans import GONE_WITHIN_S
from tests.figures import ROOT, bar
from tests.real.faults_of_children import AT_START, FAULTS, at_start, environ
from tests.real.processes import Gateway, guard

WORKERS = 8
MAX_WAIT_S = 60.0
#: On top of the deadline for waiting: running has none, and eight answers share two cores.
PATIENCE_S = MAX_WAIT_S + 60.0
#: Faults that the proxy can tell from a request's doing.
OUTSIDE = ("sigkill", "stopped", "exit")
PHASES = ("loading", "queued", "prefill", "decode", "idle")

SETTINGS = {
    "upstream.decode_concurrency": 4,
    "upstream.prompt_concurrency": 4,
    "upstream.prefill_step_size": 64,
    "supervisor.max_restarts": 1000,
    "supervisor.restart_window_s": 2,  # so that most crashes are the first of theirs
    "supervisor.backoff_base_s": 0.1,
    "supervisor.backoff_max_s": 1,
    "supervisor.start_timeout_s": 12,
    "supervisor.stall_s": 2,
    "supervisor.canary_timeout_s": 1,
    "queue.keepalive_s": 0.5,
    "queue.headers_after_s": 0.2,
    "queue.max_wait_s": MAX_WAIT_S,
    "queue.max_waiting": 100,
}


@dataclass(slots=True)
class Campaign:
    """The load, the faults, and all that was seen."""

    guard: Gateway
    http: aiohttp.ClientSession
    chance: random.Random
    starts: Path
    results: list[Result] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)  # fault, phase
    going: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    async def status(self) -> dict[str, Any]:
        async with self.http.get(f"{self.guard.url}/mlxguard/api/status") as answer:
            document: dict[str, Any] = await answer.json()
            return document

    async def until(self, holds: Any, within_s: float = 30.0) -> dict[str, Any] | None:
        """The first status for which it holds, or None."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            assert self.guard.alive()
            if holds(document := await self.status()):
                return document
            await asyncio.sleep(0.05)  # more often, and the asking is most of the gateway's work
        return None

    async def work(self, number: int) -> None:
        """One client after the other, until it is over."""
        chance = random.Random(self.chance.randrange(2**32))
        asked = 0
        while not self.over:
            await self.going.wait()
            client = CLIENTS[(number + asked) % len(CLIENTS)]
            name = f"w{number}-{asked}"
            asked += 1
            text = " ".join(f"{name}x{index}" for index in range(chance.choice((4, 30, 90))))
            body = {
                "messages": [{"role": "user", "content": text}],
                "max_tokens": chance.choice((8, 40, 120)),
                "temperature": 0,
            }
            self.results.append(await ask(client, self.guard.url, body, name, PATIENCE_S))

    async def hurt(self) -> None:
        """One fault in one phase."""
        fault, phase = self.chance.choice((*FAULTS, *AT_START)), self.chance.choice(PHASES)
        await self.until(_ready)
        if fault in AT_START:
            phase = "loading"
            at_start(self.starts, fault, times=self.chance.choice((1, 2)) if fault == "fail" else 1)
            fault_now = "sigkill"
        else:
            fault_now = fault
        if phase == "idle":
            self.going.clear()
        if phase == "loading" and fault not in AT_START:
            await FAULTS["exit"](self.http, (await self.status())["child"])
            self.done.append(("exit", "any"))
        spared: set[str] = set()
        if fault_now not in OUTSIDE and phase != "loading":  # nobody runs while it loads
            spared = {event["request_id"] for event in self.guard.events("answer_failed")}
        holds = _in_phase(phase, at_next_start=fault in AT_START, spared=spared)
        document = await self.until(holds, 20)
        if document is not None:
            await FAULTS[fault_now](self.http, document["child"])
            self.done.append((fault, phase))
        self.going.set()
        generation = document["child"]["generation"] if document else 0
        await self.until(lambda status: status["child"]["generation"] > generation, 40)
        await asyncio.sleep(self.chance.uniform(0, 3))


def _ready(status: dict[str, Any]) -> bool:
    return bool(status["child"]["state"] == "ready")


def _in_phase(phase: str, *, at_next_start: bool, spared: set[str]) -> Callable[[dict[str, Any]], bool]:
    """Whether a status shows the phase, and none of the requests that are to be spared.

    The fault comes a moment after the status: by then somebody may have come, but nobody endured a death.
    """

    def holds(status: dict[str, Any]) -> bool:
        requests = status["requests"]
        stages = Counter(request["stage"] for request in requests)
        if any(request["request_id"] in spared for request in requests):
            return False
        match phase:
            case "loading" if at_next_start:
                return _ready(status)
            case "loading":
                return bool(status["child"]["state"] == "starting" and status["child"]["pid"])
            case "queued":
                return _ready(status) and status["queue"]["waiting"] > 0
            case "idle":
                return _ready(status) and not requests
            case _:
                return _ready(status) and stages[phase] > 0

    return holds


# --- judging ---


def at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def innocent(result: Result, answered: dict[str, Any] | None) -> bool:
    """See the module's docstring. A death that it endured is an attempt of the proxy's log."""
    if result.heard is Heard.COMPLETE:
        return True
    endured = answered["attempts"] if answered else 0
    in_time = result.ended - result.began < MAX_WAIT_S
    return not result.content and endured <= 2 and in_time


def recoveries(guard: Gateway) -> list[tuple[float, float]]:
    """(seconds beyond the child's own load time, seconds spent waiting for memory), first of each window."""
    found, died, before, waited = [], None, 0.0, 0.0
    events = ("child_died", "child_ready", "child_started", "waited_for_memory")
    lines = sorted((line for event in events for line in guard.events(event)), key=at)
    for line in lines:
        match line["event"]:
            case "child_died":
                first = at(line) - before > SETTINGS["supervisor.restart_window_s"]
                died = line if first and line["state"] == "ready" else None
                before, waited = at(line), 0.0
            case "waited_for_memory":
                waited += line["waited_s"]
            case "child_ready" if died is not None:
                found.append((at(line) - at(died) - line["load_s"] - waited, waited))
                died = None
    return found


def judge(campaign: Campaign, files: tuple[int, int], orphans: int) -> bool:
    answered = {line["request_id"]: line for line in campaign.guard.events("answered")}
    results = campaign.results
    innocents = [result for result in results if innocent(result, answered.get(result.request_id))]
    lost = [result for result in innocents if result.heard is not Heard.COMPLETE]
    broken = [result for result in results if result.heard is Heard.BROKEN]
    for result in (*broken, *lost):
        line = answered.get(result.request_id, {})
        print(f"! {result.client} {result.request_id}: {result.heard} {result.detail} (log: "
              f"{line.get('outcome')} {line.get('reason')} attempts {line.get('attempts')})")  # fmt: skip
    _print_tables(campaign)
    extra = [seconds for seconds, _ in recoveries(campaign.guard)]
    waited = [seconds for _, seconds in recoveries(campaign.guard)]
    print(f"# waiting for memory, apart: {sum(waited):.2f} s over {len(waited)} first crashes")
    deaths = campaign.guard.events("child_died")
    print(f"# {len(campaign.done)} faults, {len(deaths)} deaths, {len(results)} requests")
    print(f"# causes: {dict(Counter(line['cause'] for line in deaths))}")
    return all(
        [
            bar("faults_broken_answers", len(broken), 0),
            bar("faults_innocents_lost", len(lost), 0),
            bar("faults_innocents_share", len(innocents) / max(1, len(results)), 0.6, at_least=True),
            bar("faults_orphans", orphans, 0),
            bar("faults_files_grown", files[1] - files[0], 3),
            bar("faults_recovery_over_load_s", statistics.median(extra) if extra else 0.0, 0.5),
        ]
    )


def _print_tables(campaign: Campaign) -> None:
    """As Markdown, as docs/reliability.md has them."""
    heard = Counter((result.client, result.heard) for result in campaign.results)
    faults = Counter(campaign.done)
    clients = [client.__name__ for client in CLIENTS]
    _print_table("client", clients, Heard, lambda client, each: heard[client, each])
    _print_table("fault", (*FAULTS, *AT_START), PHASES, lambda fault, phase: faults[fault, phase])


def _print_table(
    what: str, rows: Sequence[str], columns: Iterable[Any], count: Callable[[str, Any], int]
) -> None:
    names = list(columns)
    print(f"| {what} | {' | '.join(map(str, names))} |\n|{'---|' * (1 + len(names))}")
    for row in rows:
        print(f"| {row} | {' | '.join(str(count(row, name)) for name in names)} |")


# --- running ---


async def run(guard: Gateway, options: argparse.Namespace, starts: Path) -> tuple[Campaign, tuple[int, int]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        campaign = Campaign(guard, http, random.Random(options.seed), starts)
        campaign.going.set()
        workers = [asyncio.create_task(campaign.work(number)) for number in range(WORKERS)]
        await asyncio.sleep(3)  # connections, pools and threads are there before files are counted
        process, before = psutil.Process(guard.process.pid), 0
        began = time.monotonic()
        for number in range(options.number or 10**9):
            if time.monotonic() - began > options.seconds:
                break
            guard.descendants()
            await campaign.hurt()
            if number == 0:
                before = await _files_at_rest(campaign, process)
        campaign.over = True
        await asyncio.gather(*workers)
        await campaign.until(_ready, 60)
        return campaign, (before, await _files_at_rest(campaign, process))


async def _files_at_rest(campaign: Campaign, process: psutil.Process) -> int:
    """Open files of the gateway while nobody asks and the child is ready."""
    campaign.going.clear()
    await campaign.until(lambda status: _ready(status) and not status["requests"], PATIENCE_S)
    await asyncio.sleep(1)
    campaign.going.set()
    return process.num_fds()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1200.0, help="no further fault after this time")
    parser.add_argument("--number", type=int, default=100, help="of faults; 0: as many as there is time for")
    options = parser.parse_args(argv)
    number, stall_s = options.number or "any number of", SETTINGS["supervisor.stall_s"]
    print(f"seed {options.seed}, {number} faults in {options.seconds:g} s at most")
    print(f"{WORKERS} clients, stall {stall_s} s, deadline {MAX_WAIT_S:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        starts = Path(folder) / "starts"
        starts.mkdir()
        os.environ.update(environ(starts))
        words = [f"--set={key}={value}" for key, value in SETTINGS.items()]
        with guard(_model(), Path(folder), *words) as running:
            campaign, files = asyncio.run(run(running, options, starts))
            seen = {*running.seen, *running.descendants()}
        orphans = len(psutil.wait_procs(seen, timeout=GONE_WITHIN_S)[1])
        ok = judge(campaign, files, orphans)
        if not ok:
            kept = ROOT / ".out" / f"campaign-faults-{options.seed}.log"
            kept.write_text(running.text())
            print(f"# the proxy's log: {kept.relative_to(ROOT)}")
    return 0 if ok else 1


def _model() -> Path:
    """4 MB of cache for every 256 tokens of one sequence: growing takes new memory, as it does in earnest."""
    folder = ROOT / ".out" / "models" / "campaign"
    command = [
        sys.executable,
        "-P",
        "-m",
        "supervisor.model.tiny",
        f"--out={folder}",
        "--kv-bytes-per-token=16384",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


if __name__ == "__main__":
    sys.exit(main())
