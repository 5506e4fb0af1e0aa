"""An error reply of the child as text that a client may see."""

from __future__ import annotations

import re

from proxy.stream import sse

_LONGEST = 300
_UNNAMED = "the model server refused this request"

#: Absolute paths, POSIX and home: tell a client nothing and an attacker something.
_PATH = re.compile(r"(?<![\w<])~?(?:/[\w.@+-]+){2,}/?")

#: OpenCode retries a 400 whose text contains a status that can be retried (facts of its retry matcher).
_NUMBER = re.compile(r"\d{3,}")


def error_text(reply: bytes) -> str:
    """The text of `{"error": "..."}`, without paths and long numbers, of bounded length."""
    try:
        error = sse.loads(reply).get("error")
    except sse.Malformed:
        error = None
    if not isinstance(error, str) or not error.strip():
        return _UNNAMED
    text = _NUMBER.sub("#", _PATH.sub("<path>", " ".join(error.split())))
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"{_UNNAMED}: {text}"
