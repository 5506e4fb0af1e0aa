"""Folders for state and cache, by the conventions of the platform.

macOS: Apple's File System Programming Guide, "The Library Directory". Elsewhere: the XDG Base Directory
Specification 0.8, whose variables also apply on a Mac if they are set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_NAME = "mlxguard-proxy"


def state_folder(configured: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for the lock, crash reports and learned limits: as configured, or the platform's."""
    return configured or _folder(environ, "XDG_STATE_HOME", ".local/state", "Library/Application Support")


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for what can be made again, such as the embedded model."""
    return _folder(environ, "XDG_CACHE_HOME", ".cache", "Library/Caches")


def _folder(environ: Mapping[str, str], variable: str, elsewhere: str, macos: str) -> Path:
    root = Path(environ.get(variable, ""))
    if not root.is_absolute():  # unset, or relative, which the specification says to ignore
        root = Path.home() / (macos if sys.platform == "darwin" else elsewhere)
    return root / _NAME
