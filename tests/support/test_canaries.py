"""The search finds what it is made for; that it finds nothing is what every test run shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.canaries import is_input

ROOT = Path(__file__).parents[2]

HEAD = "import logging\nfrom tests.support.canaries import KEY, PROMPT, is_input\n"
TESTS = {
    "file": "def test_it(tmp_path): (tmp_path / 'proxy.log').write_text(f'x {PROMPT} y')",
    "binary": "def test_it(tmp_path): (tmp_path / 'state').write_bytes(b'\\xff' + KEY.encode())",
    "log": "def test_it(): logging.getLogger('mlxguard.http').info('refused', extra={'reason': [PROMPT]})",
    "trace": "def test_it():\n"
    "    try:\n        raise ValueError(KEY)\n"
    "    except ValueError:\n        logging.getLogger('mlxguard.app').exception('internal_error')",
    "input": "def test_it(tmp_path): is_input(tmp_path / 'keys').write_text(KEY)",
    "nothing": "def test_it(): logging.getLogger('mlxguard.http').info('refused')",
}


@pytest.mark.parametrize(
    ("name", "fails"),
    [("file", True), ("binary", True), ("log", True), ("trace", True), ("input", False), ("nothing", False)],
)
def test_a_run_fails_when_a_secret_is_left_behind(tmp_path: Path, name: str, fails: bool) -> None:
    is_input(tmp_path)
    (tmp_path / "test_it.py").write_text(HEAD + TESTS[name] + "\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.canaries", "-p", "no:cacheprovider"]
    command += [f"--basetemp={tmp_path / 'base'}", "--rootdir=.", "test_it.py"]
    alone = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the search is all it needs
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | alone
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is fails, done.stdout
    assert ("a prompt or a key" in done.stdout) is fails, done.stdout
