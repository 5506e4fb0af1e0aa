"""Pure. The `Via` header (RFC 9110, 7.6.3), which a gateway must send to the server behind it.

Of the client's own `Via`, only the list of hops is forwarded; comments may contain any text, and are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: A pseudonym, as the RFC allows; the machine's name stays private.
NAME = "mlxguard-proxy"

#: The value in responses to clients: the child speaks HTTP/1.0, so its responses are received as 1.0.
RESPONSE = f"1.0 {NAME}"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
_HOP = re.compile(rf"(?:{_TOKEN}/)?{_TOKEN}[ \t]+(?:{_TOKEN}|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{0,5}})?")
_COMMENT = re.compile(r"\([^()]*\)")

#: Hops that are forwarded: more than any request takes in practice, and few enough for one header.
_MAX_HOPS = 16


def forward(received: Iterable[str], version: tuple[int, int]) -> str:
    """The value for the child: the well-formed hops of the client's headers, then this gateway."""
    members = (part.strip() for field in received for part in _COMMENT.sub("", field).split(","))
    hops = [" ".join(member.split()) for member in members if _HOP.fullmatch(member)]
    return ", ".join([*hops[-_MAX_HOPS:], f"{version[0]}.{version[1]} {NAME}"])
