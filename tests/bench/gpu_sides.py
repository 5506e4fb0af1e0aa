"""The sides of `make bench-gpu`: which server, how memory is taken away, and what is seen meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.gpu_device import Gpu
from tests.bench.gpu_table import CALM, Outcome
from tests.bench.turns import LOST, Agent, End, Record, Script
from tests.real.processes import Gateway, Running, bare_server, guard

AGENTS = 8
GIB = 2**30

#: Its name, and the words it adds to the command line of the guard.
Side = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Times in seconds from the first request; sizes in bytes."""

    name: str
    script: Script
    seconds: float
    room: int | None = None  # of the GPU's memory, from before the start
    hold_at: float | None = None  # another program takes what is free ...
    hold_until: float | None = None  # ... and gives it back
    sides: tuple[Side, ...] = (("bare", ()), ("guarded", ()))


#: Left when memory is taken away: enough for the driver's own needs, too little for any cache to grow.
SCRAPS = 64 * 2**20

#: Sessions that together outgrow `room` within a minute; a batch of eight cold prompts takes most of it.
_LONG = Script(first=2000, grows=2500, answer=96)

#: Sessions of which eight fit many times over.
_SHORT = Script(first=3000, grows=400, answer=128)

SCENARIOS = (
    Scenario(CALM, _SHORT, seconds=30.0),
    Scenario("squeeze", _SHORT, seconds=90.0, hold_at=15.0, hold_until=35.0),
    Scenario("growth", _LONG, seconds=90.0, room=56 * GIB),
)

#: Not measured: MLX compiles a kernel when it is first used, and keeps it on disk for all later servers.
WARM_UP = Scenario("warm-up", _LONG, seconds=15.0)


class Watch:
    """What is seen from outside while the agents work."""

    def __init__(self, gpu: Gpu, server: Running) -> None:
        self._gpu = gpu
        self._server = server
        self.used: list[int] = []
        self.room = 0
        self.dead_at: float | None = None  # /health says so, or nobody listens (bare server)
        self.inside: list[dict[str, Any]] = []  # the memory figures of the guard's status

    async def work(self, http: aiohttp.ClientSession) -> None:
        while True:
            self.used.append(self._gpu.others)
            self.room = max(self.room, self._gpu.total - self._gpu.at_rest - self._gpu.held)
            if len(self.used) % 5 == 0:
                await self._ask(http)
            await asyncio.sleep(0.1)

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        path = "/mlxguard/api/status" if isinstance(self._server, Gateway) else "/health"
        try:
            async with http.get(self._server.url + path, timeout=aiohttp.ClientTimeout(5)) as answer:
                if path == "/health":
                    dead = answer.status == 503
                else:
                    dead = False
                    self.inside.append((await answer.json())["child"]["memory"])
        except TimeoutError:
            return
        except (aiohttp.ClientError, OSError):
            dead = True
        if dead and self.dead_at is None:
            self.dead_at = time.monotonic()


async def play(scenario: Scenario, gpu: Gpu, server: Running, record: Record) -> tuple[float, Watch]:
    """The agents at work for the scenario's time; when it began, and what was seen."""
    watch = Watch(gpu, server)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        began = time.monotonic()
        agents = [Agent(number, scenario.script, record) for number in range(AGENTS)]
        async with background(watch.work(http), *(agent.work(http, server.url) for agent in agents)):
            if scenario.hold_at is not None and scenario.hold_until is not None:
                await asyncio.sleep(scenario.hold_at)
                gpu.leave(SCRAPS)
                await asyncio.sleep(scenario.hold_until - scenario.hold_at)
                gpu.give_back()
            await asyncio.sleep(began + scenario.seconds - time.monotonic())
    return began, watch


@contextlib.asynccontextmanager
async def background(*coroutines: Any) -> AsyncIterator[None]:
    """Run beside the block, and cancel at its end; what failed by then is raised."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


@contextlib.contextmanager
def served(model: Path, folder: Path, side: str, options: Sequence[str]) -> Iterator[Running]:
    if side == "bare":
        with bare_server(model, folder) as server:
            yield server
    else:
        with guard(model, folder, *options) as proxy:
            yield proxy


def run(scenario: Scenario, side: Side, gpu: Gpu, model: Path, folder: Path) -> Outcome:
    name, options = side
    record = Record()
    if scenario.room is not None:
        gpu.leave(scenario.room)
    try:
        with served(model, folder, name, options) as server:
            began, watch = asyncio.run(play(scenario, gpu, server, record))
            left = gpu.others
            deaths = deaths_of(server, began, watch)
    finally:
        gpu.give_back()
    complete = [turn for turn in record.turns if turn.end is End.COMPLETE]
    return Outcome(
        scenario=scenario.name,
        side=name,
        seconds=scenario.seconds,
        turns={end.value: count for end in End if (count := record.count([end]))},
        lost=record.count(LOST),
        tokens_per_s=sum(turn.completion_tokens for turn in complete) / scenario.seconds,
        without_service_s=record.without_service_s(began, began + scenario.seconds),
        longest_prompt=max((turn.prompt_tokens for turn in complete), default=0),
        room_gib=watch.room / GIB,
        peak_gib=max(watch.used) / GIB,
        left_gib=left / GIB,
        deaths=deaths,
        notes=notes_of(watch, record),
    )


def notes_of(watch: Watch, record: Record) -> dict[str, Any]:
    kinds = ("footprint", "active", "peak", "cache")
    inside = {kind: max((each.get(kind) or 0 for each in watch.inside), default=0) / GIB for kind in kinds}
    errors = sorted({turn.detail for turn in record.turns if turn.detail})
    return {
        "inside_gib": inside,
        "errors": errors[:10],
        "used_gib": [used / GIB for used in watch.used[::10]],
    }


def deaths_of(server: Running, began: float, watch: Watch) -> list[dict[str, Any]]:
    if not isinstance(server, Gateway):
        words = [line for line in server.text().splitlines() if tells_of_death(line)]
        at = watch.dead_at
        return [] if at is None else [{"at_s": round(at - began, 1), "words": words[:3]}]
    return guarded_deaths(server)


def tells_of_death(line: str) -> bool:
    return "out of memory" in line.lower() or "generation thread died" in line


def guarded_deaths(proxy: Gateway) -> list[dict[str, Any]]:
    """Each death with its cause, the seconds until it was known, and until the next child was ready."""
    deaths: list[dict[str, Any]] = []
    first_word: float | None = None
    for line in proxy.text().splitlines():
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        at = datetime.fromisoformat(event["time"]).timestamp()
        match event["event"]:
            case "child_output" if first_word is None and tells_of_death(event["line"]):
                first_word = at
            case "child_died":
                noticed = None if first_word is None else round(at - first_word, 3)
                deaths.append({"cause": event["cause"], "noticed_s": noticed, "at": at, "back_s": None})
            case "child_ready":
                if deaths and deaths[-1]["back_s"] is None:
                    deaths[-1]["back_s"] = round(at - deaths[-1]["at"], 1)
                first_word = None
            case "child_started":
                first_word = None
    return deaths
