"""Residents: whose kept sequences fit next to the largest running one, and who is displaced by whom."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.residents import KeptSequence, Residents, ReuseRecord, SessionRequest


class Rows:
    """Memory in which a row is a byte, and a running request holds its rows twice."""

    def __init__(self, room: int, cache_bytes: float = math.inf) -> None:
        self.room, self.cache_bytes = room, cache_bytes

    def kept(self, rows: int) -> int:
        return rows

    def warm(self, rows: int) -> int:
        return 2 * rows

    def cold(self, rows: int) -> int:
        return 2 * rows


def sequence(session: str, rows: int = 1000) -> KeptSequence:
    return KeptSequence(session, rows, rows, ended=0.0)


def request(session: str, rows: int = 1000, cached: int = 0) -> SessionRequest:
    return SessionRequest(f"of {session}", session, 0.0, rows, cached)


def residents(room: int, *sequences: KeptSequence, unused: str = "") -> Residents:
    return Residents(sequences, Rows(room), lambda session: session != unused)


def test_the_newest_that_fit_beside_a_running_one_are_resident() -> None:
    found = residents(5200, sequence("a"), sequence("b"), sequence("c"), sequence("d"))
    assert [*found.sessions] == ["d", "c", "b"]


def test_a_longer_one_leaves_place_for_fewer() -> None:
    found = residents(5200, sequence("a"), sequence("b"), sequence("c", 1500))
    assert [*found.sessions] == ["c"]


def test_only_the_newest_sequence_of_a_session_counts_as_its_own() -> None:
    found = residents(9000, sequence("a", 500), sequence("a", 600))
    assert found.sessions == {"a": sequence("a", 600)}


def test_fillers_take_memory_and_are_nobody() -> None:
    found = residents(5200, sequence("a"), sequence("b"), sequence("", 1200))
    assert [*found.sessions] == ["b"]


def test_a_session_that_never_uses_what_is_kept_is_not_resident() -> None:
    assert [*residents(9000, sequence("a"), sequence("b"), unused="b").sessions] == ["a"]


def test_a_newcomer_displaces_the_oldest_that_no_longer_fit() -> None:
    found = residents(5200, sequence("a"), sequence("b"), sequence("c"))
    assert found.displaced_by(request("d")) == (sequence("a"),)
    assert found.displaced_by(request("d", 1200)) == (sequence("b"), sequence("a"))


def test_a_resident_displaces_nobody_with_its_next_turn() -> None:
    found = residents(5400, sequence("a"), sequence("b"), sequence("c"))
    assert found.displaced_by(request("a", 1050, cached=1000)) == ()


def test_what_the_server_would_drop_itself_is_not_resident() -> None:
    sequences = [sequence("a"), sequence("b"), sequence("c")]
    found = Residents(sequences, Rows(100_000, cache_bytes=3500), lambda _: True)
    assert [*found.sessions] == ["c", "b"]
    assert found.displaced_by(request("d")) == (sequence("b"),)


def test_where_all_fit_nobody_is_displaced() -> None:
    assert residents(100_000, *map(sequence, "abcdef")).displaced_by(request("g")) == ()
    assert residents(100).displaced_by(request("g")) == ()


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3000)), max_size=12),
    st.integers(0, 20_000),
    st.sampled_from("abcxyz"),
    st.integers(1, 3000),
)
def test_residents_and_a_newcomer_fit_once_the_displaced_are_gone(
    kept: list[tuple[str, int]], room: int, session: str, rows: int
) -> None:
    found = residents(room, *[sequence(*each) for each in kept])
    gone = {each.session for each in found.displaced_by(request(session, rows))}
    staying = [each for name, each in found.sessions.items() if name not in gone and name != session]
    if staying:
        longest = max(rows, *[each.rows for each in staying])
        assert sum(each.rows for each in staying) + rows + 2 * longest <= room
    assert session not in gone


def test_reuse_is_an_average_of_what_was_used_of_what_was_kept() -> None:
    record, kept = ReuseRecord(), [sequence("a")]
    for _ in range(2):
        record.arrived(request("a", 1100, cached=1000), kept)
    assert record.reused("a")
    record.arrived(request("a", 1100, cached=100), kept)
    assert record.reused("a")  # once may be a compaction
    record.arrived(request("a", 1100, cached=100), kept)
    assert not record.reused("a")
    record.arrived(request("b", 1100, cached=0), kept)  # nothing was kept for it
    assert record.reused("b")


def test_reuse_is_remembered_of_so_many_sessions() -> None:
    record = ReuseRecord()
    for number in range(3000):
        record.arrived(request(str(number)), [sequence(str(number))])
    assert len(record._shares) == 1024
