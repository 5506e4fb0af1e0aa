"""When the child is done with a request whose client has left. Pure.

A stream that is broken off is noticed in the child by the thread that writes it, at its next write; that
thread marks the request, and the generation thread, which looks for marks after each step, drops it then.
So what is known from outside comes in this order: the child's output names the connection that broke, and
a step later the request is gone; or telemetry shows the generation thread with nothing to do. A sequential
request is not looked at before its whole prompt is read. While the text of a tool call is generated nothing
is written, so nothing is noticed; then, and where a server says nothing, time has to do.
(mlx_lm/server.py, `_generate`, `_serve_single`, `handle_completion`; measured with the real server.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The generation thread drops marked requests after a round of steps, which lasts about so long.
ROUND_S = 0.6
#: Without any news from the child a request is taken for gone after so long, and some steps more. What it
#: may hold beyond that is seen by its memory, which is watched anyway.
PATIENCE_S = 30.0
_STEPS = 3


class DropEvidence(Enum):
    """How it is known."""

    IDLE = "idle"  # nothing is at work in the child
    NOTICED = "noticed"  # the child gave the connection up, and has had time for one more step
    UNSEEN = "unseen"  # it was not: patience has run out


@dataclass(frozen=True, slots=True)
class DisconnectedRequest:
    """A request that was broken off. Times are monotonic seconds.

    Attributes:
        at: when its connection was reset.
        step_s: the longest time between two signs of life of it, which is a step of the child.
        unread_s: for a sequential request, how long the rest of its prompt takes to read; else 0.
        noticed: when the child gave its connection up; None so far.
    """

    at: float
    step_s: float = 0.0
    unread_s: float = 0.0
    noticed: float | None = None

    def gone(self, now: float, idle_at: float | None) -> DropEvidence | None:
        """How it is known to be gone, or None while it may be there.

        `idle_at`: when the child was last seen with nothing to do.
        """
        if idle_at is not None and idle_at > self.at:
            return DropEvidence.IDLE
        if self.noticed is not None and now >= self.noticed + ROUND_S + self.step_s + self.unread_s:
            return DropEvidence.NOTICED
        if now >= self.at + PATIENCE_S + _STEPS * self.step_s + 2 * self.unread_s:
            return DropEvidence.UNSEEN
        return None
