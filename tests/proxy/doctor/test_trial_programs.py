"""Trial programs go step by step, and end with the process that started them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from proxy.doctor.trial_programs import PROGRAMS


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"mlx", "gateway"}))
def test_one_whose_stdin_ends_goes(name: str) -> None:
    command = [sys.executable, "-P", "-m", "proxy.doctor.trial_programs", name, "1000"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert "pid" in json.loads(line)


def test_each_line_is_a_step() -> None:
    command = [sys.executable, "-P", "-m", "proxy.doctor.trial_programs", "allocate", "1000"]
    done = subprocess.run(command, input="\n\n", capture_output=True, text=True, timeout=20, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert second == {**first, "bytes": 1000}
