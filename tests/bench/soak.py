"""Memory and open files over 200,000 requests: `make bench WHAT=soak`.

Whole answers and streams in turn, 16 at once. The first quarter fills pools and caches; over the rest a line
is fitted to the memory of each process, and its slope must be within its own noise (two standard errors), or
within what a thousand pages are per 100,000 requests: 4 MB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.bench import sides
from tests.bench.document import Table, publish
from tests.bench.load import Order, bodies, wrk
from tests.figures import bar

REQUESTS = 200_000
ORDERS = (Order(chunks=16), Order(chunks=16, stream=True))
LEAST_MB = 4.0
PER = 100_000


def slope(at: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Of the line through the values by least squares, and its standard error."""
    line = statistics.linear_regression(at, values)
    mean = statistics.fmean(at)
    off = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(at, values, strict=True))
    spread = sum((x - mean) ** 2 for x in at)
    return line.slope, (off / (len(at) - 2) / spread) ** 0.5


def run(number: int, seconds: float) -> bool:
    made = bodies(*ORDERS)
    done, counts, began = 0, [], time.monotonic()
    memory: dict[psutil.Process, list[float]] = {}
    files: list[int] = []
    with tempfile.TemporaryDirectory() as scratch, sides.guard(Path(scratch)) as guard:
        while done < number:
            done += wrk(guard.port, made[len(counts) % 2], connections=16, seconds=seconds).requests
            time.sleep(0.5)  # connections are closed, and files counted at rest
            counts.append(done)
            files.append(sum(process.num_fds() for process in guard.processes))
            for process in guard.processes:
                memory.setdefault(process, []).append(process.memory_info().rss / 1e6)
        names = ["gateway", *(process.name() for process in guard.processes[1:])]
    took = time.monotonic() - began
    steady = [index for index, count in enumerate(counts) if count >= number / 4]
    rows, over = [], 0.0
    for name, values in zip(names, memory.values(), strict=True):
        found, error = slope([counts[i] / PER for i in steady], [values[i] for i in steady])
        over = max(over, found / max(2 * error, LEAST_MB))
        span = f"{values[0]:.0f}, {values[steady[0]]:.0f}, {values[-1]:.0f}"
        rows.append((name, span, f"{found:+.2f} ±{2 * error:.2f}"))
    rows.append(("open files", f"{files[0]}, {files[steady[0]]}, {files[-1]}", ""))
    head = ("", "first, after a quarter, last (RSS in MB)", f"slope, MB per {PER:,} requests")
    publish("soak", Table(head, rows), f"{done} requests in {took:.0f} s.")
    good = [
        bar("soak_requests", done, REQUESTS, at_least=True),
        bar("soak_slope_over_noise", over, 1.0),
        bar("soak_files_grown", files[-1] - files[steady[0]], 0),
    ]
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--seed", type=int, default=0, help="nothing is drawn here")
    parser.add_argument("--number", type=int, default=REQUESTS, help="requests")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load between two looks")
    arguments = parser.parse_args()
    return 0 if run(arguments.number, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
