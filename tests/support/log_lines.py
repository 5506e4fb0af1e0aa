"""Log lines as a gateway writes them, for tests of the log."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from proxy.config.settings import LogSettings
from proxy.log import setup


def written(emit: Callable[[], None], *, human: bool = False, keys: tuple[str, ...] = ()) -> str:
    stream = io.StringIO()
    setup.setup(LogSettings(level="debug", format="human" if human else "json"), stream, keys)
    emit()
    return stream.getvalue()


def parsed(emit: Callable[[], None], keys: tuple[str, ...] = ()) -> dict[str, Any]:
    (line,) = written(emit, keys=keys).splitlines()
    found: dict[str, Any] = json.loads(line)
    return found
