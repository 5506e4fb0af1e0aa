"""Pure. Residents: the sessions whose kept sequences fit in memory next to the largest running one.

The child keeps finished sequences in order of insertion and drops the oldest first, so what stays is decided
by what was used last. A session is resident if its newest kept sequence is among the newest ones that fit
together with a running request as long as the longest of them. Its next turn then reads only what is new.
Whether a request can be let in without costing a resident its place follows from the same sum: the request is
counted as if it had ended and become the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

#: Share of the memory that residents and the running request are planned for; the rest absorbs rounding of
#: buffers and what a small request needs.
_SHARE = 0.97


class KeptSequence(NamedTuple):
    """A finished sequence in the child's prompt cache.

    Attributes:
        session: key of the session that it belongs to; "" if it belongs to none, as filler requests do.
        rows: its length in tokens.
        bytes: memory that it holds.
        ended: when its answer ended, in monotonic seconds.
        kind: what the server calls it; a request that its client left has only its prompt kept ("user").
    """

    session: str
    rows: int
    bytes: int
    ended: float
    kind: str = "assistant"


class CacheContent(NamedTuple):
    """A sequence in the child's prompt cache as its simulation knows it; see `KeptSequence`."""

    session: str
    rows: int
    kind: str


class SessionRequest(NamedTuple):
    """A waiting request, as far as the rule of sessions needs it.

    Attributes:
        arrived: monotonic seconds, kept over replays.
        rows: tokens of its prompt.
        cached: tokens of it that the child's cache is predicted to give.
    """

    id: str
    session: str
    arrived: float
    rows: int
    cached: int = 0


class Memory(Protocol):
    """What sequences cost, in bytes. Every function grows with `rows`."""

    @property
    def room(self) -> int:
        """Bytes that the weights leave below the ceiling."""

    @property
    def cache_bytes(self) -> float:
        """Bytes that the child keeps at most, what a joining request has restored included."""

    def kept(self, rows: int, /) -> int:
        """Bytes that a finished sequence of `rows` tokens holds."""

    def warm(self, rows: int, /) -> int:
        """Peak of a request of `rows` tokens that runs alone with nearly all of its prompt cached."""

    def cold(self, rows: int, /) -> int:
        """Peak of a request of `rows` tokens that runs alone with nothing cached."""


class Residents:
    """The residents for one state of the cache and the memory. Immutable; answers are remembered.

    Args:
        sequences: what the child keeps, the oldest first.
        reused: whether what is kept for a session is of use to it; sessions that never use it are not
            resident.
    """

    def __init__(
        self, sequences: Sequence[KeptSequence], memory: Memory, reused: Callable[[str], bool]
    ) -> None:
        self._sequences, self._memory, self._reused = sequences, memory, reused
        self._total = sum(sequence.bytes for sequence in sequences)
        self._longest = max((each.rows for each in sequences if each.session), default=0)
        self._displaced: dict[tuple[str, int], tuple[KeptSequence, ...]] = {}
        self.sessions = self._fitting(None)

    def displaced_by(self, request: SessionRequest) -> tuple[KeptSequence, ...]:
        """The residents that no longer fit once `request` has run; empty if it costs nobody its place."""
        key = (request.session, request.rows)
        if key not in self._displaced:
            self._displaced[key] = self._displaced_by(request)
        return self._displaced[key]

    def _displaced_by(self, request: SessionRequest) -> tuple[KeptSequence, ...]:
        if not self.sessions or self._all_fit_with(request):
            return ()
        staying = self._fitting(request)
        return tuple(
            sequence
            for session, sequence in self.sessions.items()
            if session not in staying and session != request.session
        )

    def _all_fit_with(self, request: SessionRequest) -> bool:
        """Whether everything fits even if nothing is dropped: the usual case, and quickly answered."""
        memory = self._memory
        highest = max(
            memory.kept(request.rows) + memory.warm(max(self._longest, request.rows)),
            memory.cold(request.rows),
        )
        if self._total + highest > _SHARE * memory.room:
            return False
        longest = memory.kept(max(self._longest, request.rows))
        return self._total + memory.kept(request.rows) + longest <= memory.cache_bytes

    def _fitting(self, newcomer: SessionRequest | None) -> dict[str, KeptSequence]:
        """The newest sequence of each session that fits, the newest first.

        `newcomer`: counted as if it had ended and become the newest.
        """
        memory, room = self._memory, _SHARE * self._memory.room
        kept = longest = cold = own = 0
        if newcomer is not None:
            longest, own, cold = newcomer.rows, memory.kept(newcomer.rows), memory.cold(newcomer.rows)
        found: dict[str, KeptSequence] = {}
        for sequence in reversed(self._sequences):
            if newcomer is not None and sequence.session == newcomer.session != "":
                continue
            kept += sequence.bytes
            longest = max(longest, sequence.rows if sequence.session else 0)
            if kept + max(own + memory.warm(longest), cold) > room:
                break
            if kept + own + memory.kept(longest) > memory.cache_bytes:
                break  # the server would drop it as the longest one joins
            if sequence.session and sequence.session not in found and self._reused(sequence.session):
                found[sequence.session] = sequence
        return found


class ReuseRecord:
    """How much of what was kept for each session its next request used, as a moving average."""

    #: Sessions that are remembered; the one not seen for longest is forgotten first.
    _REMEMBERED = 1024
    #: A session that used less than this share of what was kept for it is not kept room for.
    _LEAST = 0.5

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def arrived(self, request: SessionRequest, kept: Iterable[KeptSequence]) -> None:
        """A request of a session came while `kept` was in the cache."""
        before = [sequence.rows for sequence in kept if sequence.session == request.session]
        if not before or not request.session:
            return
        used = min(1.0, request.cached / max(1, min(before[-1], request.rows)))
        share = (self._shares.pop(request.session, 1.0) + used) / 2
        self._shares[request.session] = share
        if len(self._shares) > self._REMEMBERED:
            del self._shares[next(iter(self._shares))]

    def reused(self, session: str) -> bool:
        """Whether keeping sequences for this session has paid so far."""
        return self._shares.get(session, 1.0) >= self._LEAST
