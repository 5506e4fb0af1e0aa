"""Pure. When the child has dropped a request whose connection was broken off.

The child notices a disconnect in the thread that writes the stream, at its next write. That thread marks the
request, and the generation thread, which looks for marks after each step, then drops it. From outside this
shows in two ways: the child's output names the broken connection, and a step later the request is gone; or
telemetry shows the generation thread with nothing to do. A sequential request is not looked at before its
whole prompt is read. While the text of a tool call is generated nothing is written, so nothing is noticed;
then, and if a server says nothing, a time limit has to do. (mlx_lm/server.py, `_generate`, `_serve_single`,
`handle_completion`; measured with the real server.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The generation thread drops marked requests after a round of steps, which takes about this long.
ROUND_S = 0.6
#: Without any sign from the child a request counts as dropped after this time and some more steps. If it
#: holds memory for longer, the memory guard sees that.
TIMEOUT_S = 30.0
#: The number of those steps.
_STEPS = 3


class DropEvidence(Enum):
    """How it is known that a request was dropped."""

    IDLE = "idle"  # the child has nothing to do
    NOTICED = "noticed"  # the child gave up the connection, and has had time for one more step
    TIMEOUT = "timeout"  # nothing was seen in time


@dataclass(frozen=True, slots=True)
class DisconnectedRequest:
    """A request that was broken off. Times are monotonic seconds.

    Attributes:
        at: when its connection was reset.
        step_s: the longest time between two of its signs of life, which is a step of the child.
        unread_s: for a sequential request, how long the rest of its prompt takes to read; else 0.
        noticed: when the child gave up the connection; None so far.
    """

    at: float
    step_s: float = 0.0
    unread_s: float = 0.0
    noticed: float | None = None

    def dropped(self, now: float, idle_at: float | None) -> DropEvidence | None:
        """How it is known that the child dropped it; None while it may still be at work on it.

        `idle_at`: when the child was last seen with nothing to do.
        """
        if idle_at is not None and idle_at > self.at:
            return DropEvidence.IDLE
        if self.noticed is not None and now >= self.noticed + ROUND_S + self.step_s + self.unread_s:
            return DropEvidence.NOTICED
        if now >= self.at + TIMEOUT_S + _STEPS * self.step_s + 2 * self.unread_s:
            return DropEvidence.TIMEOUT
        return None
