"""`mlxguard-proxy doctor`, as it is typed: all of it works where these tests run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import orjson
import psutil
import pytest

from proxy.doctor.check_result import CheckVerdict
from proxy.exit_codes import ExitCode

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


#: As in a terminal: what a shell starts in the background ignores SIGINT, and so does what that starts.
CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from proxy.cli import main; sys.exit(main())"
)
DOCTOR = [sys.executable, "-c", CODE, "doctor", "--model", "tiny", "--port", "0"]


def environment(folder: Path) -> dict[str, str]:
    """Folders of its own, the one for temporary files too."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)}


def test_everything_works_here(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DOCTOR, "--json"], capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert not done.stderr
    found = orjson.loads(done.stdout)["checks"]
    assert [each["check"] for each in found] == CHECKS
    # A busy machine may have little memory free; nothing else is but well.
    bad = [each for each in found if each["verdict"] != CheckVerdict.OK and each["check"] != "free memory"]
    assert not bad
    assert done.returncode == 0


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(DOCTOR, stdout=subprocess.PIPE, env=environment(tmp_path)) as doctor:
        assert doctor.stdout
        while b"memory of MLX" not in doctor.stdout.readline():
            pass
        below = psutil.Process(doctor.pid).children(recursive=True)
        assert below  # the server is on its way
        doctor.send_signal(signal.SIGINT)
        assert doctor.wait(20) == ExitCode.INTERRUPTED
    assert not psutil.wait_procs(below, 5.0)[1]
    assert not list(tmp_path.glob("mlxguard-doctor-*"))
