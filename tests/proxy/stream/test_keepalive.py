"""Keep-alives by arithmetic over the clock."""

from __future__ import annotations

from proxy.stream.keepalive import KeepaliveClock


def signs(silence: KeepaliveClock, until: float) -> list[tuple[float, bool]]:
    """When something is sent, and whether that is an event."""
    found = []
    while silence.due <= until:
        now = silence.due
        found.append((now, silence.needs_event(now)))
    return found


def test_the_first_sign_ends_the_grace_and_comments_follow() -> None:
    silence = KeepaliveClock.begin(100, grace_s=2, keepalive_s=5)
    assert signs(silence, 120) == [(each, False) for each in (102, 107, 112, 117)]


def test_no_minute_without_an_event() -> None:
    silence = KeepaliveClock.begin(0, grace_s=2, keepalive_s=5)

    events = [now for now, is_event in signs(silence, 600) if is_event]

    assert all(later - sooner <= 60 for sooner, later in zip([0, *events], events, strict=False))
    assert len(events) <= 11, "and not many more than needed"


def test_events_put_it_off() -> None:
    silence = KeepaliveClock.begin(0, grace_s=2, keepalive_s=5)
    silence.event_sent(1)
    assert silence.due == 6


def test_long_intervals_send_events_only() -> None:
    silence = KeepaliveClock.begin(0, grace_s=2, keepalive_s=90)
    assert {is_event for _, is_event in signs(silence, 600)} == {True}
