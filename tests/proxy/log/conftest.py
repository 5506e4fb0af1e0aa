"""Logging belongs to the process: each test gives it back as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore what `setup` changes."""
    root, own = logging.getLogger(), logging.getLogger("mlxguard")
    before = root.handlers[:], root.level, own.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, own.level, logging.raiseExceptions = before
    logging.captureWarnings(False)
