"""Masks API keys in everything that is logged."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]+=*")

_MASKED = "[key]"

#: A key shorter than this is masked only where it stands alone, or "a" would mask half of every line.
_SHORT_KEY = 8


def mask(keys: Iterable[str]) -> None:
    """Mask these keys too from now on; those that were known stay masked."""
    MASK.know(keys)


class KeyMask:
    """Replaces the keys and whatever follows `Bearer`."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys: set[str] = set()
        self._anywhere: re.Pattern[str] | None = None
        self.know(keys)

    def reset(self, keys: Iterable[str]) -> None:
        """Mask these keys, and no longer those of before."""
        self._keys.clear()
        self.know(keys)

    def know(self, keys: Iterable[str]) -> None:
        self._keys.update(filter(None, keys))
        longest_first = sorted(self._keys, key=len, reverse=True)
        patterns = (
            re.escape(key) if len(key) >= _SHORT_KEY else rf"(?<![\w-]){re.escape(key)}(?![\w-])"
            for key in longest_first
        )
        self._anywhere = re.compile("|".join(patterns)) if longest_first else None

    def __call__(self, text: str) -> str:
        if "bearer" in text.lower():  # a tenth of what the pattern takes for each of a line's twenty values
            text = _BEARER.sub(rf"\1{_MASKED}", text)
        return self._anywhere.sub(_MASKED, text) if self._anywhere else text


MASK = KeyMask()
