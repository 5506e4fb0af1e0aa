"""Pure. How values are laid over those of an existing file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Members that say which entry of a list an entry is; two entries are the same if they agree in all that the
#: new one has.
_IDENTITY = ("id", "name", "model_id")


class NotMergeable(Exception):
    """The existing text is not understood well enough to change it; the reason is the text."""


def same_entry(existing: object, new: Mapping[str, Any]) -> bool:
    """Whether an entry of a list is an earlier version of `new`."""
    names = [name for name in _IDENTITY if name in new]
    return isinstance(existing, Mapping) and bool(names) and all(existing.get(n) == new[n] for n in names)


def is_entries(value: object) -> bool:
    """Whether a value is a list of named entries, which is merged entry by entry."""
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def overlaid(existing: Any, values: Any) -> Any:
    """`existing` with `values` laid over it: the data that a merged text must have."""
    if isinstance(existing, Mapping) and isinstance(values, Mapping):
        changed = {
            key: overlaid(existing[key], value) if key in existing else value for key, value in values.items()
        }
        return {**existing, **changed}
    if isinstance(existing, list) and is_entries(values):
        result = list(existing)
        for new in values:
            index = next((at for at, old in enumerate(result) if same_entry(old, new)), None)
            if index is None:
                result.append(new)
            else:
                result[index] = overlaid(result[index], new)
        return result
    return values


def with_defaults(existing: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and those of `defaults` that the existing document lacks."""
    known = existing if isinstance(existing, Mapping) else {}
    return {key: value for key, value in defaults.items() if key not in known} | dict(values)
