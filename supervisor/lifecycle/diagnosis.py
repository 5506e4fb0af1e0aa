"""Pure. What killed the child: a table from exit, last lines and liveness to a cause in plain words.

The signatures are texts and exits recorded from the real server on Linux (CPU and CUDA); those of Metal
come from public issue threads of mlx and mlx-lm. Text outranks exit status, because an abort, a dead thread
and a refused request can all carry the same "Insufficient Memory". A death that no row matches stays UNKNOWN,
and its last lines are kept.
"""

from __future__ import annotations

import re
import signal as signals
from dataclasses import dataclass
from itertools import takewhile

from supervisor.lifecycle.causes import CAUSE_INFO, Cause, Symptom

#: A cause is searched for in this many last lines of the output: a traceback and the warnings around it.
EVIDENCE_LINES = 60

#: macOS does not report its kills for lack of memory (jetsam); it kills below about this share of free
#: memory.
SHORT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class MachinePressure:
    """How short of memory the machine was.

    `system_kills`: processes that the system has killed for lack of memory during the child's life; None
    where it does not report them (macOS). `free_share`: lowest share of free memory in the last seconds.
    """

    system_kills: int | None = None
    free_share: float | None = None

    @property
    def kills(self) -> bool:
        """Whether the system is likely to have killed for lack of memory."""
        if self.system_kills is not None:
            return self.system_kills > 0
        return self.free_share is None or self.free_share < SHORT_SHARE


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about one death. After an exit, exactly one of `exit_code` and `signal` is set.

    `stopped`: the process had been stopped (SIGSTOP, a debugger, job control) rather than got stuck.
    """

    symptom: Symptom
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    pressure: MachinePressure = MachinePressure()
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, and one line that explains it to the user.

    `external`: a person or another program did this to the server, so no request is to blame.
    """

    cause: Cause
    explanation: str
    external: bool = False


#: Texts in the last lines that prove a cause; the first match wins. Metal's numeric code changed its width
#: between versions, so only the name is matched.
_SIGNATURES = (
    (Cause.METAL_OOM, r"\[METAL\].*(kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory)"),
    (Cause.METAL_ERROR, r"\[METAL\].*kIOGPUCommandBufferCallbackError\w+"),
    (Cause.CUDA_OOM, r"(?i)cuda.*out of memory|cudaErrorMemoryAllocation"),
    # MLX prints the call and CUDA's text (backend/cuda/utils.cpp), for cuBLAS a number: 3 is ALLOC_FAILED.
    (Cause.CUDA_OOM, r"\bcu[A-Z]\w*.* failed: out of memory|\bcublas\w*.* failed with code: 3\."),
    (Cause.RESOURCE_LIMIT, r"Resource limit \(\d+\) exceeded"),
    (Cause.ALLOCATION_REFUSED, r"\[(metal::)?malloc\w*\] (Attempting to allocate|Unable to allocate)"),
    (Cause.ALLOCATION_REFUSED, r"^(MemoryError\b|std::bad_alloc)|terminating.*std::bad_alloc"),
)
#: Texts that count only before the first token.
_LOADING_SIGNATURES = (
    (Cause.PORT_TAKEN, r"Address already in use"),
    (Cause.UNSUPPORTED_FLAG, r"error: (unrecognized arguments|argument -|ambiguous option)"),
    (Cause.SERVER_MISSING, r"No module named ('mlx(_lm)?'|mlx_lm$)|^mlxguard: cannot run"),
    # resource.setrlimit, which mlx_lm/utils.py calls when it is imported.
    (Cause.FILE_LIMIT, r"^ValueError: not allowed to raise maximum limit"),
    (Cause.BAD_MODEL, r"Model type .* not supported"),
    (Cause.BAD_MODEL, r"ValueError: (Missing|Received) \d+ parameters"),
    (Cause.BAD_MODEL, r"FileNotFoundError: .*(config\.json|[Ss]afetensors)"),
    (Cause.BAD_MODEL, r"\[load_safetensors\]"),
    (Cause.BAD_MODEL, r"HFValidationError|RepositoryNotFoundError|RevisionNotFoundError"),
)

_BY_SIGNAL: dict[int, Cause] = {
    signals.SIGKILL: Cause.KILLED_BY_SYSTEM,
    signals.SIGSEGV: Cause.SEGFAULT,
    signals.SIGBUS: Cause.SEGFAULT,
    signals.SIGABRT: Cause.ABORTED,
}

#: Signals by which people and process managers end a process; a fault of the process never sends them.
_TERMINATION = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT)

#: Symptoms that determine the cause whatever the text says.
_CERTAIN = {
    Symptom.STOPPED: Cause.OWN_STOP,
    Symptom.RECYCLED: Cause.RECYCLED,
    Symptom.PORT_TAKEN: Cause.PORT_TAKEN,
    Symptom.WEDGE: Cause.WEDGE,
}

#: Symptoms that determine the cause if no text does.
_OTHERWISE = {
    Symptom.THREAD_DEAD: Cause.GENERATION_THREAD_DIED,
    Symptom.LOAD_FAILED: Cause.LOAD_FAILED,
    Symptom.START_TIMEOUT: Cause.START_TIMEOUT,
}


def diagnose(evidence: Evidence, *, loading: bool) -> Diagnosis:
    """Find the cause of one death. `loading`: the generation had not yet produced its first token."""
    if evidence.symptom is Symptom.UNWATCHED:  # a fault of the proxy: no request is to blame
        return Diagnosis(Cause.WATCH_FAILED, CAUSE_INFO[Cause.WATCH_FAILED].explanation, external=True)
    cause = _CERTAIN.get(evidence.symptom) or _by_text(evidence.last_lines, loading) or _by_status(evidence)
    if (act := _external_act(cause, evidence)) is not None:
        return Diagnosis(cause, act, external=True)
    return Diagnosis(cause, _with_status(CAUSE_INFO[cause].explanation, cause, evidence))


def _external_act(cause: Cause, evidence: Evidence) -> str | None:
    """What a person or another program did to the server, if the evidence says so."""
    number = _signal_of(evidence)
    if cause is Cause.KILLED_BY_SYSTEM and not evidence.pressure.kills:
        return "The server was killed with SIGKILL, and not by the system for lack of memory."
    if cause is Cause.UNKNOWN and number in _TERMINATION:
        return f"Something other than the proxy ended the server with {signals.Signals(number).name}."
    if cause is Cause.WEDGE and evidence.stopped:
        return "The server's process was stopped, by SIGSTOP or a debugger, until it was restarted."
    return None


def _by_text(lines: tuple[str, ...], loading: bool) -> Cause | None:
    tail = lines[-EVIDENCE_LINES:]
    signatures = (*_SIGNATURES, *_LOADING_SIGNATURES) if loading else _SIGNATURES
    return next((cause for cause, text in signatures if any(re.search(text, line) for line in tail)), None)


def _by_status(evidence: Evidence) -> Cause:
    if evidence.symptom in _OTHERWISE:
        return _OTHERWISE[evidence.symptom]
    number = _signal_of(evidence)
    return _BY_SIGNAL.get(number, Cause.UNKNOWN) if number is not None else Cause.UNKNOWN


def _signal_of(evidence: Evidence) -> int | None:
    if evidence.signal is None and evidence.exit_code is not None and evidence.exit_code > 128:
        return evidence.exit_code - 128  # a shell or launcher runs between the proxy and the server
    return evidence.signal


def _with_status(explanation: str, cause: Cause, evidence: Evidence) -> str:
    if cause is not Cause.UNKNOWN:
        return explanation
    if evidence.signal is not None:
        return f"The server was ended by signal {evidence.signal}."
    if evidence.exit_code is not None:
        return f"The server exited with code {evidence.exit_code}."
    return explanation


def suspicious(line: str) -> bool:
    """Whether a line of the child's output is a reason to examine it at once.

    The server writes this when its generation thread ends with an exception. A client's text could look the
    same, so it is no proof.
    """
    return "generation thread died" in line


def lacks_memory(lines: tuple[str, ...]) -> bool:
    """Whether the last lines of a living child say that it was short of memory.

    A server that can start no more threads closes new connections unanswered and continues with the others.
    """
    tail = lines[-EVIDENCE_LINES:]
    if any("can't start new thread" in line or "MemoryError" in line for line in tail):
        return True
    cause = _by_text(tail, loading=False)
    return cause is not None and CAUSE_INFO[cause].memory


#: Lines of a traceback that ran through the server's parsing of a tool call (server.py, ToolCallFormatter).
_TOOL_CALL = re.compile(r"tool_formatter\(|self\._tool_parser\(|self\._format\(tc\)")
#: Begins the traceback of a connection's thread, with the client's port (socketserver.BaseServer).
_CONNECTION = "Exception occurred during processing of request from ('127.0.0.1', {})"


def choked_on_tool_call(lines: tuple[str, ...], port: int) -> bool:
    """Whether the server's thread for the connection from this port failed as it read a tool call.

    The model writes the call. Where the server's parser makes something of it that its formatter does not
    expect, such as a call without arguments, the thread ends with an exception, and the answer with it.
    """
    begin = _CONNECTION.format(port)
    at = next((i for i in range(len(lines) - 1, -1, -1) if lines[i] == begin), None)
    if at is None:
        return False
    traceback = takewhile(lambda line: not line.startswith("----"), lines[at + 1 :])
    return any(_TOOL_CALL.search(line) for line in traceback)


def port_taken(line: str) -> bool:
    """Whether the server says that it could not bind its port; its process may live on without serving."""
    return "Address already in use" in line
