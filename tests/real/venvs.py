"""Client packages in environments of their own, made once and kept under .out/ for later runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ENVIRONMENTS = Path(__file__).resolve().parent.parent.parent / ".out" / "venvs"


def environment(*requirements: str) -> Path:
    """The bin folder of an environment with these packages, for the Python that runs the tests."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = ENVIRONMENTS / "-".join((*requirements, version)).replace("==", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        complete = folder / "complete"  # written last, so that half an environment is never used
        if not complete.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder]
            subprocess.run([*pip, "install", "--quiet", "--no-compile", *requirements], check=True)
            complete.touch()
    return folder / "bin"
