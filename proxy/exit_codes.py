"""Exit codes of the command, for scripts and service managers."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of `mlxguard-proxy`. `meaning` is its text in --help and in the documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "done, or stopped gracefully by SIGTERM or Ctrl-C"
    INTERNAL = 1, "a bug: the traceback is in the log"
    CONFIGURATION = 2, "bad configuration or usage; nothing was started"
    PORT_IN_USE = 3, "the port is in use; the message names the program"
    STATE_LOCKED = 4, "another proxy is using the state folder"
    INSTALLATION = 5, "another package hides `proxy` or `supervisor`"
    UNFIT = 6, "`doctor` found something that does not work here"
    INTERRUPTED = 130, "stopped at once by a second Ctrl-C"
