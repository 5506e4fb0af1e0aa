"""One timer of the event loop that is set anew, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls once, unless it is set again or cleared before."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_s: float, call: Callable[[], object]) -> None:
        """Call after so many seconds, and never for what was set before."""
        self.clear()
        self._handle = asyncio.get_running_loop().call_later(max(0.0, delay_s), call)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
