"""Versions of the libraries that decide what a child does."""

from __future__ import annotations

import importlib.metadata


def versions() -> tuple[str, ...]:
    """The libraries that the server runs on, as `name version`."""
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in ("mlx", "mlx-lm"))
