"""Who may come in: which Host, which Origin, which key. The edge asks for every request.

Why each: a page on a rebound DNS name reaches loopback, but its Host gives it away; any web page may send
requests to loopback, but browsers add its Origin; and who has no key should not learn that by timing.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from proxy import errors
from proxy.gate.queue import ANONYMOUS

#: RFC 9110, 7.2: `uri-host [":" port]`. The host is a name or IPv4 address, or IPv6 in brackets.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,255}))(?::[0-9]{0,5})?\Z")


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Who may come in.

    Attributes:
        keys: bearer key -> the name it goes by in logs and in the queue; empty lets everyone in. It may
            change between requests, as the keys file does.
        hosts: names and addresses that a Host may carry, as `canonical` gives them.
        origins: web origins that may call, as browsers send them; empty lets no web page in but our own.
        any_address: the proxy listens beyond loopback, so any IP address is a plausible Host. No name is
            rebound to get one: a page's own address is its origin.
    """

    keys: Mapping[str, str]
    hosts: Collection[str]
    origins: Collection[str]
    any_address: bool = False

    def check_host(self, authority: str | None) -> None:
        """Refuse what is not ours. `authority`: of the Host header, or of an absolute-form target.

        Raises:
            Forbidden: it is missing, malformed or names another host.
        """
        host = host_of(authority or "")
        if host is None or not (host in self.hosts or (self.any_address and _is_address(host))):
            raise errors.Forbidden("This Host is not allowed; see [server] allowed_hosts.")

    def check_origin(self, origin: str | None, authority: str | None, *, own_only: bool = False) -> None:
        """Refuse web pages that are neither listed nor ours. `authority`: the Host that was checked.

        `own_only`: for what no other page may do, listed or not (dashboard and administration).

        Raises:
            Forbidden: an Origin is present and not allowed.
        """
        if origin is None or self.is_own(origin, authority):
            return
        if own_only or origin not in self.origins:
            raise errors.Forbidden("This Origin is not allowed; see [server] allowed_origins.")

    @staticmethod
    def is_own(origin: str, authority: str | None) -> bool:
        """Whether a page of our own sent this. Only plain http is ours; TLS is a fronting server's."""
        return authority is not None and origin.lower() == f"http://{authority.lower()}"

    def client_of(self, authorization: Sequence[str]) -> str:
        """The name of the client that this Authorization belongs to; all its header lines, as sent.

        Raises:
            Unauthorized: keys are configured and this is none of them, or more than one.
        """
        if not self.keys:
            return ANONYMOUS
        scheme, _, sent = (authorization[0] if len(authorization) == 1 else "").partition(" ")
        given = sent.strip().encode(errors="surrogateescape")
        found = [name for key, name in self.keys.items() if hmac.compare_digest(key.encode(), given)]
        if scheme.lower() != "bearer" or not found:
            raise errors.Unauthorized("Missing or unknown API key.")
        return found[0]


@lru_cache(maxsize=64)  # most requests of a proxy say the same, and an address takes 20 us to understand
def host_of(authority: str) -> str | None:
    """The host of `host[:port]` in its canonical form, or None if this is not one."""
    match = _AUTHORITY.match(authority.strip(" \t"))
    if match is None:
        return None
    if match[1] is None:
        return canonical(match[2]) or None
    return canonical(match[1]) if _is_address(match[1]) else None


def canonical(host: str) -> str:
    """A name in lower case without the dot of the root; an address in its shortest form."""
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
