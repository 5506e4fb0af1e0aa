"""Versions of the libraries that determine how a child behaves."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def versions() -> tuple[str, ...]:
    """The versions of mlx and mlx-lm, as `name version`."""
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in ("mlx", "mlx-lm"))
