"""The versions that crash reports and learned limits refer to."""

from __future__ import annotations

import importlib.metadata

from supervisor.machine.versions import versions


def test_the_installed_versions_are_named() -> None:
    installed = [f"{name} {importlib.metadata.version(name)}" for name in ("mlx", "mlx-lm")]
    assert list(versions()) == installed
