"""Pure. The memory that request bodies may use at once, over all connections and for each client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import Unavailable

#: The first bytes of each body are not charged, so that large bodies of some never keep out small ones of
#: others. The number of connections limits how many there are.
FREE_BYTES = 2**20


class BodyBudget:
    """Bytes of request bodies in memory, and the most there may be; one client may have half of them."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._by_client: Counter[str] = Counter()

    @contextmanager
    def account(self, client: str = "") -> Iterator[BodyAccount]:
        """Open one request's account; its bytes are returned at the end of the block."""
        account = BodyAccount(self, client)
        try:
            yield account
        finally:
            self._charge(client, -account.used)

    def fits(self, client: str, size: int) -> bool:
        """Whether `client` may have `size` bytes more."""
        return self.used + size <= self.max_bytes and self._by_client[client] + size <= self.max_bytes // 2

    def _charge(self, client: str, size: int) -> None:
        self.used += size
        self._by_client[client] += size
        if not self._by_client[client]:
            del self._by_client[client]


class BodyAccount:
    """The bytes that one request uses of a budget."""

    def __init__(self, budget: BodyBudget, client: str = "") -> None:
        self._budget = budget
        self._client = client
        self._free = FREE_BYTES
        self.used = 0

    def add(self, size: int) -> None:
        """Charge `size` bytes. Raises Unavailable, and charges nothing, if that exceeds the budget."""
        charged = max(0, size - self._free)
        if charged and not self._budget.fits(self._client, charged):
            raise Unavailable("too_many_large_bodies")
        self._free = max(0, self._free - size)
        self._budget._charge(self._client, charged)
        self.used += charged
