"""Places that are kept when their requests have left the gate, until the child is done with them. Pure."""

from __future__ import annotations

from collections import Counter


class Kept:
    """Ids of places. A place ends when its request has left and nobody keeps it, whichever comes last."""

    def __init__(self) -> None:
        self._keepers: Counter[str] = Counter()
        self._left: set[str] = set()

    @property
    def leaving(self) -> int:
        """How many have left and are still kept."""
        return len(self._left)

    def keep(self, id: str) -> None:
        """One more keeps it."""
        self._keepers[id] += 1

    def leave(self, id: str) -> bool:
        """Its request leaves; whether the place ends now."""
        if id not in self._keepers:
            return True
        self._left.add(id)
        return False

    def release(self, id: str) -> bool:
        """One of its keepers is done; whether the place ends now."""
        self._keepers[id] -= 1
        if self._keepers[id]:
            return False
        del self._keepers[id]
        if id not in self._left:
            return False
        self._left.remove(id)
        return True
