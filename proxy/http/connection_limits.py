"""Pure. Limits the number of open connections, in total and per address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import Enum

#: Leading bits of an IPv6 address that identify one subscriber (RFC 6177); the subscriber chooses the rest.
_SUBSCRIBER_BITS = 64

#: Connections that may be receiving a refusal at the same time; further ones are dropped without a response.
_MAX_REFUSALS = 64


class ConnectionVerdict(Enum):
    """What happens to a new connection."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    DROPPED = "dropped"


class ConnectionCounts:
    """Counts open connections by source. Call `closed` once for every `opened`."""

    def __init__(self, *, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._by_source: Counter[str] = Counter()
        self._refused = 0

    def __len__(self) -> int:
        return self._by_source.total()

    def opened(self, address: str) -> ConnectionVerdict:
        """Decide about a new connection, and count it."""
        source = source_of(address)
        if len(self) < self._total and self._by_source[source] < self._per_address:
            self._by_source[source] += 1
            return ConnectionVerdict.ADMITTED
        if self._refused >= _MAX_REFUSALS:
            return ConnectionVerdict.DROPPED
        self._refused += 1
        return ConnectionVerdict.REFUSED

    def closed(self, address: str, verdict: ConnectionVerdict) -> None:
        """Stop counting a connection. `verdict`: what `opened` returned for it."""
        if verdict is ConnectionVerdict.REFUSED:
            self._refused -= 1
        elif verdict is ConnectionVerdict.ADMITTED:
            source = source_of(address)
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]


def source_of(address: str) -> str:
    """What is counted as one source: an IPv4 address, or an IPv6 subscriber's network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _SUBSCRIBER_BITS), strict=False))
