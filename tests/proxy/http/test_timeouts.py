from __future__ import annotations

from proxy.http.timeouts import BodyClock, ConnectionTimeouts, Lateness


def connected() -> ConnectionTimeouts:
    return ConnectionTimeouts(head_s=15, reading_s=120, head_since=0.0)


def idle(timeouts: ConnectionTimeouts, now: float) -> Lateness | None:
    return timeouts.late(now, unsent=0, writing_paused=False)


def test_the_first_head_counts_from_the_connection() -> None:
    timeouts = connected()
    timeouts.data_received(14.0)
    assert idle(timeouts, 14.9) is None
    assert idle(timeouts, 15.0) is Lateness.HEAD, "one byte at a time gains nothing"


def test_a_complete_head_ends_the_wait_and_a_body_is_not_a_head() -> None:
    timeouts = connected()
    timeouts.request_began()
    timeouts.data_received(20.0)
    assert idle(timeouts, 1000.0) is None


def test_the_next_head_counts_from_its_first_byte() -> None:
    timeouts = connected()
    timeouts.request_began()
    timeouts.request_ended()
    assert idle(timeouts, 60.0) is None, "idle connections are the keep-alive's business"
    timeouts.data_received(60.0)
    assert idle(timeouts, 74.0) is None
    assert idle(timeouts, 75.0) is Lateness.HEAD


def test_a_client_that_reads_nothing_is_late() -> None:
    timeouts = connected()
    timeouts.request_began()
    seen = [timeouts.late(now, unsent=70_000, writing_paused=True) for now in (10.0, 129.0, 130.0)]
    assert seen == [None, None, Lateness.READING]


def test_a_client_that_reads_slowly_is_not_late() -> None:
    timeouts = connected()
    timeouts.request_began()
    for now in range(10, 1000, 100):
        assert timeouts.late(float(now), unsent=100_000 - now, writing_paused=True) is None


def test_a_buffer_that_the_writer_fills_does_not_make_the_reader_late() -> None:
    timeouts = connected()
    timeouts.request_began()
    for now in range(10, 1000, 100):
        assert timeouts.late(float(now), unsent=now, writing_paused=False) is None


def test_a_complete_response_must_be_read_too() -> None:
    timeouts = connected()
    timeouts.request_began()
    timeouts.request_ended()
    assert timeouts.late(10.0, unsent=500, writing_paused=False) is None
    assert timeouts.late(130.0, unsent=500, writing_paused=False) is Lateness.READING


def test_a_body_must_keep_its_rate() -> None:
    clock = BodyClock(100.0, total_s=60, bytes_per_s=1000)
    assert clock.deadline == 110.0
    clock.arrived(9_999, 105.0)
    assert clock.deadline == 110.0
    clock.arrived(1, 109.0)
    assert clock.deadline == 119.0
    clock.arrived(10_000, 118.0)
    clock.arrived(10_000, 127.0)
    clock.arrived(10_000, 136.0)
    clock.arrived(10_000, 145.0)
    clock.arrived(10_000, 154.0)
    assert clock.deadline == 160.0, "the whole body has a time as well"


def test_a_body_that_came_fast_at_first_cannot_be_held_open() -> None:
    clock = BodyClock(100.0, total_s=600, bytes_per_s=1000)
    clock.arrived(60_000_000, 101.0)
    assert clock.deadline == 111.0
