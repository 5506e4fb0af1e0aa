"""Pure. Checks of one request field: its type and range, or an InvalidRequest that names the field.

Error texts say what is allowed and never repeat what was sent, which may be the user's own words.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from proxy.errors import InvalidRequest

#: OpenCode retries any error whose text contains one of these numbers, wherever it occurs.
_RETRYABLE = re.compile(r"\d*(?:429|500|502|503|504|524)\d*")


def refuse(param: str | None, what: str) -> NoReturn:
    """Raise InvalidRequest; `what` continues the sentence that begins with the field's name.

    A number in the text that looks like a retryable status (an index, a bound) is replaced by N. `param`
    keeps it.
    """
    text = f"`{param}` {what}." if param else f"The request {what}."
    raise InvalidRequest(mask_statuses(text), param=param)


def mask_statuses(text: str) -> str:
    """`text` with every number that an agent may take for a retryable status replaced by N."""
    return _RETRYABLE.sub("N", text)


def boolean(value: Any, param: str) -> bool:
    """Check for true or false; 0 and 1 are refused, as the server refuses them."""
    if type(value) is not bool:
        refuse(param, "must be true or false")
    return value


def integer(value: Any, param: str, low: int, high: int) -> int:
    """Check for a whole number within [low, high]; 4.0 is 4, since some clients have one number type."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        refuse(param, f"must be an integer from {low} to {high}")
    if not low <= value <= high:
        refuse(param, f"must be from {low} to {high}")
    return value


def number(value: Any, param: str, low: float, high: float) -> float:
    """Check for a number within [low, high], as a float: the server refuses integers in some places."""
    if type(value) is not float and type(value) is not int:
        refuse(param, f"must be a number from {low:g} to {high:g}")
    if not low <= value <= high:
        refuse(param, f"must be from {low:g} to {high:g}")
    return float(value)


def string(value: Any, param: str, longest: int) -> str:
    """Check for a string of at most `longest` characters."""
    if type(value) is not str:
        refuse(param, "must be a string")
    if len(value) > longest:
        refuse(param, f"must be at most {longest} characters long")
    return value


def mapping(value: Any, param: str | None) -> dict[str, Any]:
    """Check for a JSON object; `param` is None for the body itself."""
    if type(value) is not dict:
        refuse(param, "must be an object" if param else "body must be a JSON object")
    return value


def too_deep(value: Any, levels: int) -> bool:
    """Whether containers nest deeper than `levels`; works level by level, so no recursion can overflow."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not layer:
            return False
        layer = [
            child
            for parent in layer
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    return bool(layer)
