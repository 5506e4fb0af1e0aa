"""Pure. Arguments of tool calls, which layers write differently: as an object, its JSON, or JSON of JSON."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.stream import sse

#: The argument that carries what is not an object: a text that did not parse, or the input of a custom tool.
INPUT = "input"


def sent_arguments(value: Any) -> str:
    """Arguments of a new call as the JSON text that clients parse.

    A model can quote its arguments twice; such a text is unquoted. What is no object stays as it is, so that
    the client answers the model with its own error.
    """
    text = value if type(value) is str else sse.dumps({INPUT: value}).decode() if value else "{}"
    if type(value) is dict:
        return sse.dumps(value).decode()
    inner = _parsed(text)
    if type(inner) is str and type(_parsed(inner)) is dict:
        return inner
    return text


def past_arguments(value: Any) -> Any:
    """Arguments of a past call as the child may be sent them: an object, or the JSON text of one.

    Nobody runs a past call any more, so a text that does not parse is kept as an object's only field.
    """
    if type(value) is dict or value is None:
        return value or {}
    if type(value) is not str:
        return {INPUT: value}
    if not value.strip():
        return {}
    parsed = _parsed(value)
    if type(parsed) is str:
        return past_arguments(parsed) if type(_parsed(parsed)) is dict else {INPUT: parsed}
    return value if type(parsed) is dict else {INPUT: value}


def arguments_object(text: str) -> dict[str, Any]:
    """The same as an object, for a protocol that has no place for text."""
    parsed = _parsed(text)
    return parsed if type(parsed) is dict else {INPUT: text} if text.strip() else {}


def _parsed(text: str) -> Any:
    """The JSON value of a text; None if it has none."""
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
