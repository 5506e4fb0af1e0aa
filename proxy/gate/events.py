"""What happens at the gate, and what it answers: the events and effects of admission.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket


@dataclass(frozen=True, slots=True)
class Arrive:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Leave:
    """It does not wait, and the child is not at work on it, any more.

    `measured`: somebody tells what finished sequences hold; what this one leaves is reckoned with until then.
    """

    id: str
    measured: bool = False


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """The client of a running one has left, and the child drops it after its next step: another may have its
    place. What it holds, it holds until `Leave`.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """A running one goes back to its place in the queue, in one step: nobody slips in between."""

    id: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class EndIsolation:
    """One that runs alone is a suspect no longer: others may run beside it."""

    id: str


@dataclass(frozen=True, slots=True)
class Grew:
    """A running one has generated `tokens` so far."""

    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class SetBudget:
    budget: Budget


@dataclass(frozen=True, slots=True)
class SetRetained:
    """Bytes that finished sequences hold now."""

    bytes: int


@dataclass(frozen=True, slots=True)
class SetKept:
    """The sequences in the child's prompt cache: (session, rows, kind), the oldest first; None: unknown.

    `confirmed`: ids of ended requests that this takes account of.
    """

    sequences: tuple[tuple[str, int, str], ...] | None
    confirmed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """Grant nothing for now: memory is short, whatever was foretold."""

    on: bool


@dataclass(frozen=True, slots=True)
class InternalRequest:
    """An internal request (proxy/cache/internal_requests.py) has begun at the child, or has ended."""

    begun: bool


@dataclass(frozen=True, slots=True)
class Wake:
    """Only time has passed."""


Event = (
    Arrive
    | Leave
    | FreeSlot
    | Requeue
    | EndIsolation
    | Grew
    | SetBudget
    | SetRetained
    | SetKept
    | Hold
    | InternalRequest
    | Wake
)


class Reason(StrEnum):
    QUEUE_FULL = "queue_full"
    DEADLINE = "queue_deadline"
    NEVER_FITS = "never_fits"
    TOO_LATE = "turn_too_late"


@dataclass(frozen=True, slots=True)
class Grant:
    """`reserved`: bytes by which the fullest moment of all who run has risen with it."""

    id: str
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Refuse:
    """`limit`: with NEVER_FITS, the longest prompt that fits, in tokens.

    `retry_s`: with TOO_LATE, seconds after which its turn would have come.
    """

    id: str
    reason: Reason
    limit: int | None = None
    retry_s: float | None = None


Effect = Grant | Refuse
