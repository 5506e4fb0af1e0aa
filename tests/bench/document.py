"""Tables of figures: printed, and put where docs/benchmarks.md has a place for them.

A place is what is between `<!-- NAME -->` and `<!-- /NAME -->`. Only a run with DOCUMENT set in its
environment (`make bench DOCUMENT=1`) writes there, so that a short run for oneself changes nothing.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.figures import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are to be read."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def machine() -> str:
    """Date, machine and versions."""
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlxguard-proxy", "mlx-lm", "aiohttp"))
    cores = f"{_cores()} cores, {memory:.0f} GiB"
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}, {_processor()}, {cores}, "
        f"Python {platform.python_version()}, {packages}."
    )


def _cores() -> int | None:
    """Those that may be used here, which `taskset` can make fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()


def publish(name: str, table: Table, note: str) -> None:
    """Print a table with what it was measured on."""
    text = f"{table.markdown()}\n{note} {machine()}\n"
    print(f"\n{text}", flush=True)
    if os.environ.get("DOCUMENT"):
        PAGE.write_text(placed(PAGE.read_text(), name, text))


def placed(page: str, name: str, text: str) -> str:
    """`page` with `text` in the place `name`. Raises ValueError if there is none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"no place for {name}")
    return f"{before}{begin}\n{text}\n{end}{after}"
