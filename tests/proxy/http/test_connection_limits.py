from __future__ import annotations

import pytest

from proxy.http.connection_limits import ConnectionCounts, ConnectionVerdict, source_of


def test_one_address_cannot_use_all_connections() -> None:
    counts = ConnectionCounts(total=3, per_address=2)
    assert [counts.opened("10.0.0.1") for _ in range(3)] == [
        ConnectionVerdict.ADMITTED,
        ConnectionVerdict.ADMITTED,
        ConnectionVerdict.REFUSED,
    ]
    assert counts.opened("10.0.0.2") is ConnectionVerdict.ADMITTED
    assert counts.opened("10.0.0.3") is ConnectionVerdict.REFUSED, "the total holds too"


def test_a_closed_connection_is_no_longer_counted() -> None:
    counts = ConnectionCounts(total=1, per_address=1)
    assert counts.opened("::1") is ConnectionVerdict.ADMITTED
    assert counts.opened("::1") is ConnectionVerdict.REFUSED
    counts.closed("::1", ConnectionVerdict.REFUSED)
    assert counts.opened("::1") is ConnectionVerdict.REFUSED, "a refused one was not counted"
    counts.closed("::1", ConnectionVerdict.ADMITTED)
    assert counts.opened("::1") is ConnectionVerdict.ADMITTED
    assert len(counts) == 1


def test_a_flood_of_refusals_is_dropped() -> None:
    counts = ConnectionCounts(total=0, per_address=1)
    entries = [counts.opened("10.0.0.1") for _ in range(100)]
    assert entries.count(ConnectionVerdict.REFUSED) == 64
    assert entries[-1] is ConnectionVerdict.DROPPED
    counts.closed("10.0.0.1", ConnectionVerdict.REFUSED)
    assert counts.opened("10.0.0.1") is ConnectionVerdict.REFUSED


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2", "2001:db8::/64"),
        ("fe80::1%en0", "fe80::/64"),
        ("", ""),
    ],
)
def test_ipv6_addresses_count_by_subscriber(address: str, source: str) -> None:
    assert source_of(address) == source
