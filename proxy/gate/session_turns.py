"""Pure. Turns of sessions that do not all fit in memory: residents run freely, others once per slice.

Where not all sessions fit, each one that is let in drops the kept sequence of another, which then has to be
read anew: with turns in strict order of arrival every turn becomes a cold one. So a session that is not
resident is let in at most once per slice, and a slice is at least as long as its own cold read. In between,
residents run as often as they ask. docs/sessions.md gives the measurements behind each number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from proxy.gate.reading_speed import ReadingSpeed
from proxy.gate.residents import KeptSequence, Memory, Residents, SessionRequest

#: A slice is between this many cold reads of the request that waits for it...
_LEAST_READS = 1.0
#: ...and this many, or less if the last one that waits would be kept longer than the bound.
_MOST_READS = 4.0
#: A resident that does not ask is held for at most this many seconds after its last answer.
HOLD_S = 60.0
#: A request is small if it is shorter than what this part of the memory holds.
_SMALL_PART = 64


class TurnDecision(NamedTuple):
    """Which waiting requests may run now.

    Attributes:
        order: ids that may run, in order; a later one may pass an earlier one as ever.
        outside: ids that would cost residents their place, in the order of their turns.
        due: the one of `outside` whose turn it is, if any; only small requests may pass it.
        wake: when the decision changes if nothing happens before; infinite if it does not.
    """

    order: tuple[str, ...]
    outside: tuple[str, ...]
    due: str | None
    wake: float


def is_small(request: SessionRequest, memory: Memory) -> bool:
    """Whether a request is so short that it always passes."""
    return memory.kept(request.rows) < memory.room // _SMALL_PART


def outsiders(
    waiting: Sequence[SessionRequest], residents: Residents, memory: Memory
) -> list[SessionRequest]:
    """The waiting requests that would cost residents their place, by arrival."""
    found = [
        request
        for request in waiting
        if request.session not in residents.sessions
        and not is_small(request, memory)
        and residents.displaced_by(request)
    ]
    return sorted(found, key=lambda request: (request.arrived, request.id))


def decide(
    waiting: Sequence[SessionRequest],
    outside: Sequence[SessionRequest],
    residents: Residents,
    memory: Memory,
    speed: ReadingSpeed,
    *,
    swapped: float,
    bound_s: float,
    now: float,
) -> TurnDecision:
    """Which of `waiting` may run now.

    Args:
        waiting: in the order of their turns.
        outside: `outsiders` of these; not empty.
        swapped: when the prompt of the last one that was let in from outside had been, or will have been,
            read; minus infinity if there was none.
        bound_s: seconds that a request may wait at most.
    """
    first, ids = outside[0], tuple(request.id for request in outside)
    free = [request for request in waiting if request.id not in ids]
    at = swapped + slice_s(first, len(outside), speed, bound_s)
    if now >= at:
        small = [request.id for request in free if is_small(request, memory)]
        return TurnDecision((*small, first.id), ids, first.id, math.inf)
    order = tuple(request.id for request in free)
    if any(not is_small(request, memory) for request in free):
        return TurnDecision(order, ids, None, at)
    held_until = _held_until(waiting, residents, residents.displaced_by(first), speed)
    if now < held_until:
        return TurnDecision(order, ids, None, min(at, held_until))
    return TurnDecision((*order, first.id), ids, None, at)


def slice_s(first: SessionRequest, outside: int, speed: ReadingSpeed, bound_s: float) -> float:
    """Seconds that residents have to themselves before `first` of `outside` requests is let in."""
    read = speed.seconds(0, first.rows)
    return max(_LEAST_READS * read, min(_MOST_READS * read, bound_s / outside - read))


def _held_until(
    waiting: Sequence[SessionRequest],
    residents: Residents,
    displaced: Sequence[KeptSequence],
    speed: ReadingSpeed,
) -> float:
    """Until when nobody is let in from outside, since a resident may come back from its tool."""
    price = sum(speed.seconds(0, sequence.rows) for sequence in displaced)
    here = {request.session for request in waiting}
    ended = [each.ended for session, each in residents.sessions.items() if session not in here]
    return max(ended, default=-math.inf) + min(price, HOLD_S)


def longest_wait_s(ahead: int, longest_read_s: float, longest_turn_s: float, bound_s: float) -> float:
    """The promise: no request waits longer than this.

    Each of the `ahead` + 1 requests that are let in, the last being the request itself, waits for one slice
    and for the turn that runs when it becomes due, with the small requests that pass.

    Args:
        ahead: the most other sessions that wait at any one time.
        longest_read_s, longest_turn_s: of a cold read, and of a whole turn with its cold read.
    """
    number = ahead + 1
    one = max(_LEAST_READS * longest_read_s, bound_s / number - longest_read_s)
    one = min(one, max(_LEAST_READS, _MOST_READS) * longest_read_s)
    return number * (one + 2 * longest_turn_s)


def expected_wait_s(
    id: str,
    outside: Sequence[SessionRequest],
    speed: ReadingSpeed,
    *,
    swapped: float,
    bound_s: float,
    now: float,
) -> float | None:
    """About how many seconds one of `outside` still waits, by slices and cold reads; None for others."""
    at = swapped
    for place, request in enumerate(outside):
        at = max(now, at + slice_s(request, len(outside) - place, speed, bound_s))
        if request.id == id:
            return at - now
        at += speed.seconds(request.cached, request.rows)
    return None


def least_wait_s(id: str, outside: Sequence[SessionRequest], speed: ReadingSpeed) -> float:
    """Seconds that one of `outside` waits at least: the reads of those ahead of it, without any slice."""
    seconds = 0.0
    for request in outside:
        if request.id == id:
            break
        seconds += speed.seconds(request.cached, request.rows)
    return seconds
