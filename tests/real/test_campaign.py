"""The campaigns in short: some faults and some kills, and the figures that do not depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import Bar

ROOT = Path(__file__).parents[2]

#: Seconds beyond loading depend on how busy the machine is; `make campaign` holds this one.
TIMED = {"faults_recovery_over_load_s"}


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("part", "number", "bars"), [("faults", 5, 6), ("orphans", 10, 2)])
def test_a_short_campaign(part: str, number: int, bars: int) -> None:
    command = [sys.executable, "-m", f"tests.campaign.{part}", "--seed=4", f"--number={number}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [bar for line in done.stdout.splitlines() if (bar := Bar.read(line)) is not None]
    assert len(found) == bars, done.stdout + done.stderr
    assert not [bar for bar in found if not bar.ok and bar.name not in TIMED], done.stdout
