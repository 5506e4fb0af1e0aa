"""`mlxguard-proxy doctor`, as it is typed: all of it works where these tests run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from proxy.finding import Verdict

pytestmark = pytest.mark.real

CHECKS = [
    "configuration",
    "versions",
    "server flags",
    "memory of a child",
    "memory of MLX",
    "free memory",
    "state of a child",
    "holder of a port",
    "end of a child",
    "no orphans",
    "open files",
    "state folder",
    "port",
    "server",
    "telemetry",
    "token counts",
    "stop",
    "model",
]


def test_everything_works_here(tmp_path: Path) -> None:
    code = "import sys; from proxy.cli import main; sys.exit(main())"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, "doctor", "--json", "--model", "tiny", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert not done.stderr
    found = orjson.loads(done.stdout)["checks"]
    assert [each["check"] for each in found] == CHECKS
    # A busy machine may have little memory free; nothing else is but well.
    bad = [each for each in found if each["verdict"] != Verdict.OK and each["check"] != "free memory"]
    assert not bad
    assert done.returncode == 0
