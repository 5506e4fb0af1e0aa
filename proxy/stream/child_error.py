"""Pure. Turns an error response of the child into text that a client may see."""

from __future__ import annotations

import re

from proxy.stream import sse

#: Longest text that is passed on, in characters.
_LONGEST = 300
#: Begins every text, and is the whole of it if the child gives no reason.
_REFUSED = "the model server refused this request"

#: Absolute and home paths are removed: they help no client, but they may help an attacker.
_PATH = re.compile(r"(?<![\w<])~?(?:/[\w.@+-]+){2,}/?")

#: Long numbers are removed: OpenCode retries a 400 whose text contains the digits of a retryable status.
_NUMBER = re.compile(r"\d{3,}")


def error_text(reply: bytes) -> str:
    """The text of `{"error": "..."}` without paths and long numbers, at most 300 characters of it."""
    try:
        error = sse.loads(reply).get("error")
    except sse.Malformed:
        error = None
    if not isinstance(error, str) or not error.strip():
        return _REFUSED
    text = _NUMBER.sub("#", _PATH.sub("<path>", " ".join(error.split())))
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"{_REFUSED}: {text}"
