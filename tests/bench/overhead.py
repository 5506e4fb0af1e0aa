"""What the guard costs beside direct, nginx, the least aiohttp proxy and LiteLLM: `make bench WHAT=overhead`.

All of them in one run, in rounds of shuffled order, against a child of exact timing (child.c) that does no
work of its own. A figure is the median over the rounds, and +- half of what their middle half lies in. What
is "added" is that round's figure less that round's direct one. CPU is that of all processes but the child.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import sides
from tests.bench.document import Table, publish
from tests.bench.load import (
    Missing,
    Order,
    bodies,
    cpu_s,
    program,
    quantile,
    read_streams,
    rss_mb,
    spread,
    tool,
    wrk,
)
from tests.bench.sides import Side
from tests.figures import bar

#: 1 KB of request, and of answer: one event per token, as the server has it.
WHOLE = Order(chunks=16)
PACED = Order(chunks=200, pace_us=10_000, stream=True)
STREAMS = 16

Figures = dict[str, float]


@dataclass(slots=True)
class Rounds:
    """Figures of each round, by side and name."""

    by_side: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, side: str, figures: Figures) -> None:
        self.by_side.setdefault(side, []).append(figures)

    def values(self, side: str, name: str) -> list[float]:
        return [figures[name] for figures in self.by_side[side]]

    def added(self, side: str, name: str) -> list[float]:
        direct = self.values("direct", name)
        return [mine - bare for mine, bare in zip(self.values(side, name), direct, strict=True)]

    def ratio(self, name: str, of: str, to: str) -> float:
        """Median of the rounds' own ratios."""
        pairs = zip(self.values(of, name), self.values(to, name), strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


class Load:
    """What each side is given in each round."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        burst = {chunks: Order(chunks, stream=True) for chunks in (1_000, 20_000)}
        self._whole, self._paced, *made = bodies(WHOLE, PACED, *burst.values())
        self._burst = dict(zip(burst, made, strict=True))

    def warm(self, side: Side) -> None:
        wrk(side.port, self._whole, connections=16, seconds=2)
        read_streams(side.port, self._burst[1_000])

    def round(self, side: Side) -> Figures:
        """Whole answers last: wrk breaks off what it has asked at its end, and whose child tells nothing, as
        this one, has the guard keep their places for half a minute, which is the others' turn.
        """
        return self._streams(side) | self._bursts(side) | self._wholes(side) | {"rss": rss_mb(side.processes)}

    def _wholes(self, side: Side) -> Figures:
        alone = wrk(side.port, self._whole, connections=1, seconds=max(1, self._seconds / 2))
        before = cpu_s(side.processes)
        many = wrk(side.port, self._whole, connections=16, seconds=self._seconds)
        used = cpu_s(side.processes) - before
        return {
            "p50": alone.p50,
            "p99": alone.p99,
            "per_s": many.per_s,
            "p99_16": many.p99,
            "cpu_request_us": used / many.requests * 1e6,
        }

    def _streams(self, side: Side) -> Figures:
        one = read_streams(side.port, self._paced)
        before = cpu_s(side.processes)
        many = read_streams(side.port, self._paced, STREAMS)
        used = cpu_s(side.processes) - before
        for streams, count in ((one, 1), (many, STREAMS)):
            assert len(streams.chunks) == count * PACED.chunks, f"{side.name} lost events"
        return {
            "chunk_p50": statistics.median(one.chunks),
            "chunk_p99": quantile(one.chunks, 0.99),
            "first": one.first[0] - PACED.pace_us / 1000,
            "chunk_16_p50": statistics.median(many.chunks),
            "core_16": used / (max(many.last) / 1000) * 100,
        }

    def _bursts(self, side: Side) -> Figures:
        before, took = cpu_s(side.processes), 0.0
        for _ in range(2):
            took += read_streams(side.port, self._burst[side.chunks]).last[0] / 1000
        used = cpu_s(side.processes) - before
        return {"cpu_chunk_us": used / (2 * side.chunks) * 1e6, "chunks_per_s": 2 * side.chunks / took}


@contextmanager
def running(folder: Path) -> Iterator[list[Side]]:
    """All sides that can be had; which cannot is said."""
    with ExitStack() as stack:
        direct = stack.enter_context(sides.child())
        found = [direct]
        starts = (
            lambda: sides.nginx(direct.port, folder),
            lambda: sides.passthrough(direct.port),
            lambda: sides.litellm(direct.port, folder),
            lambda: sides.guard(folder),
        )
        for start in starts:
            try:
                found.append(stack.enter_context(start()))
            except Missing as missing:
                print(f"# left out: {missing}", flush=True)
        yield found


COLUMNS = (
    ("requests/s", "per_s", 0, False),
    ("CPU per request, us", "cpu_request_us", 0, False),
    ("added p50, ms", "p50", 2, True),
    ("added p99, ms", "p99", 2, True),
    ("added first byte, ms", "first", 2, True),
    ("added p50 per chunk, ms", "chunk_p50", 3, True),
    ("added p99 per chunk, ms", "chunk_p99", 3, True),
    ("16 paced streams, % of a core", "core_16", 1, False),
    ("CPU per chunk of a burst, us", "cpu_chunk_us", 2, False),
    ("RSS, MB", "rss", 0, False),
)


def table(rounds: Rounds, names: Sequence[str]) -> Table:
    """A row per figure, a column per side."""
    rows = []
    for title, name, digits, added in COLUMNS:
        cells = []
        for side in names:
            values = rounds.added(side, name) if added else rounds.values(side, name)
            shown = f"{statistics.median(values):.{digits}f} ±{spread(values):.{digits}f}"
            cells.append("" if side == "direct" and name != "per_s" else shown)
        rows.append((title, *cells))
    return Table(("", *names), rows)


def judge(rounds: Rounds, sides_there: Sequence[str]) -> bool:
    def median(name: str, *, added: bool = False) -> float:
        return statistics.median(rounds.added("guard", name) if added else rounds.values("guard", name))

    good = [
        bar("overhead_rounds", len(rounds.by_side["guard"]), 7, at_least=True),
        bar("overhead_cpu_over_aiohttp", rounds.ratio("cpu_request_us", "guard", "aiohttp"), 2.5),
        bar("overhead_added_p50_ms", median("p50", added=True), 1.0),
        bar("overhead_chunk_added_p50_ms", median("chunk_p50", added=True), 0.15),
        bar("overhead_16_streams_core", median("core_16"), 10.0),
        bar("overhead_cpu_per_chunk_us", median("cpu_chunk_us"), 5.0),
    ]
    if "litellm" in sides_there:
        speed = rounds.ratio("per_s", "guard", "litellm")
        good.append(bar("overhead_speed_over_litellm", speed, 10.0, at_least=True))
    return all(good)


def run(seed: int, number: int, seconds: float) -> bool:
    draw, rounds = random.Random(seed), Rounds()
    load = Load(seconds)
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch)) as there:
        for side in there:
            load.warm(side)
        for done in range(number):
            for side in draw.sample(there, len(there)):
                rounds.add(side.name, load.round(side))
            print(f"# round {done + 1} of {number}", flush=True)
    names = [side.name for side in there]
    note = f"Medians of {number} rounds, ± half of what their middle half lies in."
    publish("overhead", table(rounds, names), note)
    return judge(rounds, names)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=7, help="rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="of 16 connections, each time")
    arguments = parser.parse_args()
    try:
        program("child"), program("streams"), tool("wrk", "wrk")
    except Missing as missing:
        print(missing)
        return 1
    return 0 if run(arguments.seed, arguments.number, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
