"""The failure of an exchange with the child: its kinds, and the exception that carries one."""

from __future__ import annotations

from enum import Enum, auto


class BreakKind(Enum):
    """How an attempt ended without a complete answer."""

    NOT_CONNECTED = auto()  # the request never reached the child
    NOT_ASKED = auto()  # the gateway itself lacked file descriptors or memory to ask
    CUT = auto()  # the answer stopped, or none came
    INVALID = auto()  # the child refused the request before it gave it to the model
    REJECTED = auto()  # the child answered with an error that can mean either
    ENDED = auto()  # by the gateway, before the child ran out of memory
    CALL_LOST = auto()  # the answer is complete, but lacks the tool call that it was to end with


class UpstreamBroken(Exception):
    """No complete answer came. `how` says what came, `detail` what the child said; neither says why.

    `port`: the gateway's own, of the connection to the child; None if there was none.
    """

    def __init__(self, how: BreakKind, detail: str, *, port: int | None = None) -> None:
        super().__init__(detail)
        self.how = how
        self.detail = detail
        self.port = port
