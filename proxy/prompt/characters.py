"""Pure. How many characters a value has, wherever they are in it."""

from __future__ import annotations

from typing import Any


def characters(value: Any) -> int:
    """The characters of all strings in a value of JSON, names of fields included; at any depth.

    Images in `data:` URLs are no text.
    """
    total, rest = 0, [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            total += 0 if each.startswith("data:image/") else len(each)
        elif isinstance(each, dict):
            total += sum(map(len, each))
            rest += each.values()
        elif isinstance(each, list | tuple):
            rest += each
    return total
