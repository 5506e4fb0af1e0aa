"""Pure. The memory that request bodies may use at once, over all connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import Unavailable


class BodyBudget:
    """Bytes of request bodies in memory, and the most there may be."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0

    @contextmanager
    def account(self) -> Iterator[BodyAccount]:
        """Open one request's account; its bytes are returned at the end of the block."""
        account = BodyAccount(self)
        try:
            yield account
        finally:
            self.used -= account.used


class BodyAccount:
    """The bytes that one request uses of a budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.used = 0

    def add(self, size: int) -> None:
        """Charge `size` bytes. Raises Unavailable, and charges nothing, if that exceeds the budget."""
        if self._budget.used + size > self._budget.max_bytes:
            raise Unavailable("too_many_large_bodies")
        self._budget.used += size
        self.used += size
