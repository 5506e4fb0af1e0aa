"""Pure. Access control: which Host, which Origin and which API key a request may have.

The middleware asks for every request. Host: a page on a rebound DNS name reaches loopback, but its Host
header still has the attacker's name. Origin: any web page may send requests to loopback, but its browser adds
an Origin. Key: compared in constant time, so that timing does not reveal it.
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
    """The hosts, origins and keys that are allowed.

    Attributes:
        keys: bearer key -> its name in logs and in the queue; if empty, no key is needed. The mapping may
            change between requests, as the keys file does.
        hosts: names and addresses allowed as Host, in the form that `canonical` returns.
        origins: web origins that may call, as browsers send them; if empty, only the gateway's own pages.
        any_address: the gateway listens beyond loopback, so any IP address is a plausible Host. That is safe:
            DNS rebinding needs a name, and a page served from an address has that address as its origin.
    """

    keys: Mapping[str, str]
    hosts: Collection[str]
    origins: Collection[str]
    any_address: bool = False

    def check_host(self, authority: str | None) -> None:
        """Check the authority of the Host header, or of an absolute-form target.

        Raises:
            Forbidden: it is missing, malformed or names another host.
        """
        host = host_of(authority or "")
        if host is None or not (host in self.hosts or (self.any_address and _is_address(host))):
            raise errors.Forbidden("This Host is not allowed; see [server] allowed_hosts.")

    def check_origin(self, origin: str | None, authority: str | None, *, own_only: bool = False) -> None:
        """Check the Origin header. `authority`: the Host header, which must have been checked.

        `own_only`: refuse listed origins too, for paths reserved to the gateway's own pages.

        Raises:
            Forbidden: an Origin is present and not allowed.
        """
        if origin is None or self.is_own(origin, authority):
            return
        if own_only or origin not in self.origins:
            raise errors.Forbidden("This Origin is not allowed; see [server] allowed_origins.")

    @staticmethod
    def is_own(origin: str, authority: str | None) -> bool:
        """Whether a page that this gateway served sent the request. Only plain http; TLS ends before us."""
        return authority is not None and origin.lower() == f"http://{authority.lower()}"

    def client_of(self, authorization: Sequence[str], api_keys: Sequence[str] = ()) -> str:
        """The client's name, from all Authorization and x-api-key header lines as sent.

        Clients of Anthropic's API send either, or both with the same key or with a placeholder in one.

        Raises:
            Unauthorized: keys are configured, and neither header has exactly one known key.
        """
        if not self.keys:
            return ANONYMOUS
        scheme, _, bearer = (authorization[0] if len(authorization) == 1 else "").partition(" ")
        sent = [bearer.strip()] if scheme.lower() == "bearer" else []
        sent += [key.strip() for key in api_keys] if len(api_keys) == 1 else []
        for given in (key.encode(errors="surrogateescape") for key in sent):
            found = [name for key, name in self.keys.items() if hmac.compare_digest(key.encode(), given)]
            if found:
                return found[0]
        raise errors.Unauthorized("Missing or unknown API key.")


@lru_cache(maxsize=64)  # nearly all requests send the same Host, and parsing an address takes 20 us
def host_of(authority: str) -> str | None:
    """The canonical host of `host[:port]`, or None if the authority is malformed."""
    match = _AUTHORITY.match(authority.strip(" \t"))
    if match is None:
        return None
    if match[1] is None:
        return canonical(match[2]) or None
    return canonical(match[1]) if _is_address(match[1]) else None


def canonical(host: str) -> str:
    """A name in lower case without a trailing dot; an address in its shortest form."""
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
