"""Figures with limits: runs the parts of `make bench` and `make campaign`, and holds them to their bars.

    python -m tests.figures bench|campaign [PART ...] [--seed N] [--option=OPTION ...]

A part is a module `tests.bench.PART` or `tests.campaign.PART` that is run by itself and prints what people
want to see, and one line `bar: NAME VALUE LIMIT ok|short` for each figure that has a limit. bars.toml lists
the names that each part must print: a missing one is short. Everything goes to a JSON file under .out/ too.
Exit code 1 if any bar is short or a part fails. A run prints its seed and takes it back.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "tests" / "bench" / "bars.toml"
PACKAGES = ("mlxguard-proxy", "mlx", "mlx-lm", "aiohttp")


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its limit, as printed."""

    name: str
    value: str
    limit: str
    ok: bool

    @classmethod
    def read(cls, line: str) -> Bar | None:
        """The bar of a line of output, or None if it is no bar's."""
        match line.split():
            case ["bar:", name, value, limit, ("ok" | "short") as verdict]:
                return cls(name, value, limit, verdict == "ok")
            case _:
                return None


def bar(name: str, value: float, limit: float, *, at_least: bool = False) -> bool:
    """Print one figure against its limit, for parts; True if it holds. `at_least`: more is better."""
    ok = value >= limit if at_least else value <= limit
    print(f"bar: {name} {value:.6g} {limit:.6g} {'ok' if ok else 'short'}", flush=True)
    return ok


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one part gave."""

    part: str
    exit_code: int
    seconds: float
    bars: list[Bar]
    missing: list[str]
    output: list[str]

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.missing and all(bar.ok for bar in self.bars)


def run_part(command: str, part: str, wanted: Sequence[str], options: Sequence[str]) -> Outcome:
    """Run one part, passing on what it prints as it comes."""
    print(f"# {command} {part} {' '.join(options)}", flush=True)
    started, lines = time.monotonic(), []
    words = [sys.executable, "-m", f"tests.{command}.{part}", *options]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    bars = [bar for line in lines if (bar := Bar.read(line)) is not None]
    missing = sorted(set(wanted) - {bar.name for bar in bars})
    for name in missing:
        print(f"bar: {name} missing - short", flush=True)
    return Outcome(part, process.returncode, round(time.monotonic() - started, 1), bars, missing, lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.figures")
    parser.add_argument("command", choices=("bench", "campaign"))
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all that bars.toml lists")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--option", action="append", default=[], help="passed on to each part")
    arguments = parser.parse_args(argv)
    manifest = tomllib.loads(MANIFEST.read_text())[arguments.command]
    options = ["--seed", str(arguments.seed), *arguments.option]
    parts = arguments.parts or list(manifest)
    outcomes = [run_part(arguments.command, part, manifest.get(part, ()), options) for part in parts]
    _write(arguments.command, arguments.seed, outcomes)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _write(command: str, seed: int, outcomes: Sequence[Outcome]) -> None:
    folder = ROOT / ".out"
    folder.mkdir(exist_ok=True)
    path = folder / f"{command}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "seed": seed,
        "parts": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(document, indent=1))
    print(f"# written to {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
