"""How many connections there may be, in all and from one address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import Enum

#: Bits of an IPv6 address that tell one subscriber from another (RFC 6177); the rest is theirs to choose.
_SUBSCRIBER_BITS = 64

#: Connections that are being told of their refusal at the same time; more are dropped without a word.
_MOST_REFUSALS = 64


class ConnectionVerdict(Enum):
    """What becomes of a new connection."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    DROPPED = "dropped"


class ConnectionCounts:
    """Counts connections by where they come from. Everyone but the dropped must leave once."""

    def __init__(self, *, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._by_source: Counter[str] = Counter()
        self._refused = 0

    def __len__(self) -> int:
        return self._by_source.total()

    def enter(self, address: str) -> ConnectionVerdict:
        """Decide, and count, in one step."""
        source = source_of(address)
        if len(self) < self._total and self._by_source[source] < self._per_address:
            self._by_source[source] += 1
            return ConnectionVerdict.ADMITTED
        if self._refused >= _MOST_REFUSALS:
            return ConnectionVerdict.DROPPED
        self._refused += 1
        return ConnectionVerdict.REFUSED

    def leave(self, address: str, entry: ConnectionVerdict) -> None:
        """One that entered from `address` as `entry` is gone."""
        if entry is ConnectionVerdict.REFUSED:
            self._refused -= 1
        elif entry is ConnectionVerdict.ADMITTED:
            source = source_of(address)
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]


def source_of(address: str) -> str:
    """What is counted together: an IPv4 address, an IPv6 subscriber's network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _SUBSCRIBER_BITS), strict=False))
