"""Foreign packages named `proxy` or `supervisor` are reported; tried in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from proxy.commands.installation import problems

ROOT = Path(__file__).parents[3]
COMMAND = [
    sys.executable,
    "-P",
    "-c",
    "import sys; from proxy.cli import main; sys.exit(main(['--version']))",
]


def run_with(folder: Path) -> subprocess.CompletedProcess[str]:
    """Our command where `folder` comes first on the path, as another site-packages would."""
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(COMMAND, env=environ, cwd=folder, capture_output=True, text=True, check=False)


def distribution(folder: Path, name: str, version: str, package: str) -> None:
    """The metadata that pip leaves next to an installed package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(f"{package}\n")


def test_ours_alone_is_no_problem() -> None:
    assert not list(problems())


def test_a_package_that_hides_ours_is_named_with_its_distribution(tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("raise SystemExit('foreign code was run')")
    distribution(tmp_path, "supervisor", "4.3.0", "supervisor")
    done = run_with(tmp_path)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert f"the package 'supervisor' in {tmp_path / 'supervisor'} is not ours" in line
    assert "it belongs to supervisor" in line
    assert "an environment of its own" in line


def test_a_package_without_a_distribution_is_reported_too(tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("")
    assert "it belongs to no installed distribution" in run_with(tmp_path).stderr


def test_a_distribution_in_the_same_folder_is_named(tmp_path: Path) -> None:
    """As after `pip install mlxguard-proxy supervisor` into one environment."""
    for package in ("proxy", "supervisor"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert run_with(tmp_path).returncode == 0
    distribution(tmp_path, "supervisor", "4.3.0", "supervisor")
    distribution(tmp_path, "proxy.py", "2.4.10", "proxy")
    done = run_with(tmp_path)
    assert done.returncode == 5
    first, second = done.stderr.splitlines()
    assert first.startswith(
        f"proxy.py-2.4.10 is installed into the same folder as ours, {tmp_path / 'proxy'}:"
    )
    assert second.startswith("supervisor-4.3.0 is installed into the same folder as ours")
