"""`Via` (RFC 9110, 7.6.3): which way a message came; what a gateway must say to the server behind it.

Of what a client sends only the list itself goes on: comments are its own text, and may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: A pseudonym, as the RFC allows: the machine's name is nobody's business.
NAME = "mlxguard-proxy"

#: The child speaks HTTP/1.0; so an answer of its was received.
ANSWER = f"1.0 {NAME}"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
_HOP = re.compile(rf"(?:{_TOKEN}/)?{_TOKEN}[ \t]+(?:{_TOKEN}|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{0,5}})?")
_COMMENT = re.compile(r"\([^()]*\)")

#: More hops than any request has taken, and few enough for a header.
_MOST_HOPS = 16


def onward(received: Iterable[str], version: tuple[int, int]) -> str:
    """The field for the server: the hops that the client's fields name, and this one. What is not of the
    RFC's form is left out."""
    members = (part.strip() for field in received for part in _COMMENT.sub("", field).split(","))
    hops = [" ".join(member.split()) for member in members if _HOP.fullmatch(member)]
    return ", ".join([*hops[-_MOST_HOPS:], f"{version[0]}.{version[1]} {NAME}"])
