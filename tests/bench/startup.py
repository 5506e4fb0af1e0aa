"""How soon the guard answers, and what it holds, beside the others: `make bench WHAT=startup`.

From the start of the process to the first 200 of /livez; the model is loaded meanwhile. RSS is summed over
all processes but the child, once everything is loaded; pages that two of them share count twice.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.bench import sides
from tests.bench.document import Table, publish
from tests.bench.load import Missing, model, rss_mb, spread
from tests.figures import bar
from tests.real.processes import until

#: What no file of may be mapped in the gateway: its own worker and the child load them.
FOREIGN = ("mlx", "tokenizers", "transformers", "numpy")
#: LiteLLM takes half a minute to be started so often.
LITELLM_ROUNDS = 2


def foreign(gateway: psutil.Process) -> list[str]:
    """Files that show an import which the gateway must not make; on Linux."""
    if not sys.platform.startswith("linux"):
        return []
    files = [Path(each.path) for each in gateway.memory_maps()]
    return [str(file) for file in files if any(part in FOREIGN for part in file.parts)]


def guards(number: int, folder: Path) -> tuple[list[float], list[float], list[float], list[str]]:
    """Seconds to /livez; MB of all and of the gateway alone; what was mapped that must not be."""
    started, whole, gateways, mapped = [], [], [], []
    for round_ in range(number):
        with sides.started_guard(folder / str(round_)) as side:
            started.append(side.started_s)
            ready = f"http://127.0.0.1:{side.port}/readyz"
            until("the guard is ready", lambda url=ready: sides.answers(url), 60)
            processes = sides.guards_processes(side.processes[0].pid)
            whole.append(rss_mb(processes))
            gateways.append(rss_mb(processes[:1]))
            mapped += foreign(processes[0])
    return started, whole, gateways, mapped


def others(number: int, folder: Path) -> list[tuple[str, list[float], list[float]]]:
    """Name, seconds to the first answer, MB."""
    found = []
    with sides.child() as direct:
        starts = {
            "nginx": (number, lambda: sides.nginx(direct.port, folder)),
            "aiohttp": (number, lambda: sides.passthrough(direct.port)),
            "litellm": (min(number, LITELLM_ROUNDS), lambda: sides.litellm(direct.port, folder)),
        }
        for name, (rounds, start) in starts.items():
            seconds, held = [], []
            try:
                for _ in range(rounds):
                    with ExitStack() as stack:
                        side = stack.enter_context(start())
                        seconds.append(side.started_s)
                        held.append(rss_mb(side.processes))
            except Missing as missing:
                print(f"# left out: {missing}", flush=True)
                continue
            found.append((name, seconds, held))
    return found


def run(number: int) -> bool:
    model()
    with tempfile.TemporaryDirectory() as scratch:
        started, whole, gateways, mapped = guards(number, Path(scratch))
        rows = [_row(*other) for other in others(number, Path(scratch))]
    rows.append(_row("guard", started, whole))
    rows.append(("of which the gateway", "", f"{statistics.median(gateways):.0f}"))
    note = (
        f"Medians of {number} starts (LiteLLM: {LITELLM_ROUNDS}), ± half of what their middle half lies in."
    )
    publish("startup", Table(("side", "to the first answer, s", "RSS, MB"), rows), note)
    for file in sorted(set(mapped)):
        print(f"# mapped in the gateway: {file}")
    good = [
        bar("startup_livez_s", statistics.median(started), 0.6),
        bar("startup_rss_mb", statistics.median(whole), 200.0),
        bar("startup_foreign_files", len(mapped), 0),
    ]
    return all(good)


def _row(name: str, seconds: Sequence[float], held: Sequence[float]) -> tuple[str, str, str]:
    return (
        name,
        f"{statistics.median(seconds):.2f} ±{spread(seconds):.2f}",
        f"{statistics.median(held):.0f}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup")
    parser.add_argument("--seed", type=int, default=0, help="nothing is drawn here")
    parser.add_argument("--seconds", help="nothing is timed by the clock here")
    parser.add_argument("--number", type=int, default=7, help="starts")
    return 0 if run(parser.parse_args().number) else 1


if __name__ == "__main__":
    sys.exit(main())
