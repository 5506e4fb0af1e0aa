"""Kill the gateway and look for what it left: `make campaign WHAT=orphans [N=200] [SEED=]`.

SIGKILL at random moments, from before the keeper exists until long after the first token. Half of the
children ignore SIGTERM and have a grandchild that does too; one in ten is the real server.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.figures import ROOT, bar
from tests.supervisor.conftest import until
from tests.supervisor.test_orphans import Host, marked

STUBBORN = ("ignore=all", "grandchild=yes")
REAL_EVERY = 10

#: The promise, in seconds from the end of the gateway.
GONE_WITHIN_S = 5.0


async def kill_one(folder: Path, kind: str, after_s: float) -> tuple[int, int, float]:
    """Processes that were there at the kill, those that are there 5 s later, and when all were gone."""
    told = {
        "plain": ("fake", f"mark={folder}"),
        "stubborn": ("fake", f"mark={folder}", *STUBBORN),
        "real": ("on", str(_model(folder))),
    }
    host = Host(folder, *told[kind])
    await until((folder / "lock").exists)
    await asyncio.sleep(after_s)
    there = len(marked(str(folder))) - 1  # the host itself has the mark too
    host.kill()
    began = time.monotonic()
    gone = await until(lambda: not marked(str(folder)), within_s=GONE_WITHIN_S)
    return there, 0 if gone else len(marked(str(folder))), time.monotonic() - began


def _model(folder: Path) -> Path:
    """The embedded model under a name of its own, so that its server can be told from others."""
    made = ROOT / ".out" / "models" / "default"
    if not made.exists():
        command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={made}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    link = folder / "model"
    folder.mkdir(exist_ok=True)
    link.symlink_to(made)
    return link


async def run(number: int, chance: random.Random, folder: Path) -> tuple[int, Counter[int], list[float]]:
    left, moments, gone = 0, Counter[int](), list[float]()
    for kill in range(number):
        kind = "real" if kill % REAL_EVERY == REAL_EVERY - 1 else ("plain", "stubborn")[kill % 2]
        after_s = chance.uniform(0, 3.0 if kind == "real" else 0.4)
        there, still, seconds = await kill_one(folder / f"kill-{kill:04d}", kind, after_s)
        moments[there] += 1
        gone.append(seconds)
        left += still
        if still:
            print(f"! kill {kill}, {kind} after {after_s:.3f} s: {still} left")
    return left, moments, gone


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign orphans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="has no meaning here")
    parser.add_argument("--number", type=int, default=200, help="of kills")
    options = parser.parse_args(argv)
    print(f"seed {options.seed}, {options.number} kills", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        left, moments, gone = asyncio.run(
            run(options.number, random.Random(options.seed), Path(folder).resolve())
        )
    print(f"# processes that ran at the kill: {dict(sorted(moments.items()))}")
    return 0 if all([bar("orphans_left", left, 0), bar("orphans_gone_s", max(gone), GONE_WITHIN_S)]) else 1


if __name__ == "__main__":
    sys.exit(main())
