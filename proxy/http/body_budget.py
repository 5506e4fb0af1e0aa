"""How much of request bodies may be in memory at once, over all connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import Unavailable


class BodyBudget:
    """Bytes that are held now, and the most that may be."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.held = 0

    @contextmanager
    def account(self) -> Iterator[BodyAccount]:
        """One request's share, given back at the end of the block."""
        account = BodyAccount(self)
        try:
            yield account
        finally:
            self.held -= account.held

    def add(self, size: int) -> None:
        """Raises Unavailable where that would be too much; then nothing is added."""
        if self.held + size > self._most:
            raise Unavailable("too_many_large_bodies")
        self.held += size


class BodyAccount:
    """What one request holds."""

    def __init__(self, holdings: BodyBudget) -> None:
        self._holdings = holdings
        self.held = 0

    def add(self, size: int) -> None:
        """Raises Unavailable."""
        self._holdings.add(size)
        self.held += size
