"""What killed the child: a table from exit, last lines and liveness to a cause in plain words (pure).

The signatures are texts and exits recorded from the real server on Linux (CPU and CUDA); those of Metal
come from public issue threads of mlx and mlx-lm. Text decides before exit status, because an abort, a
dead thread and a refused request can all carry the same "Insufficient Memory". What no row matches stays
UNKNOWN and keeps its last lines.
"""

from __future__ import annotations

import re
import signal as signals
from dataclasses import dataclass

from supervisor.lifecycle.causes import NATURES, Cause, Symptom

#: Lines at the end of the output in which a cause is looked for: a traceback and the warnings around it.
EVIDENCE_LINES = 60

#: macOS does not say whom it killed for memory (jetsam); it does so when less than about this is free.
SHORT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class MachinePressure:
    """How short of memory the machine was.

    `system_kills`: processes that the system has killed for memory in the child's life, None where it does
    not say (macOS). `free_share`: least free memory of the last seconds, as a share of all.
    """

    system_kills: int | None = None
    free_share: float | None = None

    @property
    def kills(self) -> bool:
        """Whether the system may well have killed for memory."""
        if self.system_kills is not None:
            return self.system_kills > 0
        return self.free_share is None or self.free_share < SHORT_SHARE


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about one death. Exactly one of `exit_code` and `signal` is set once it exited.

    `stopped`: the process had been stopped (SIGSTOP, a debugger, job control) rather than stuck.
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

    `outside`: somebody did this to the server, whatever it was working on; no request is to blame.
    """

    cause: Cause
    explanation: str
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """A text in the last lines that proves a cause. `loading`: only before the first token."""

    cause: Cause
    text: re.Pattern[str]
    loading: bool = False


def _row(cause: Cause, pattern: str, *, loading: bool = False) -> Signature:
    return Signature(cause, re.compile(pattern), loading)


#: First match wins. Metal's numeric code changed its width between versions: only the name is matched.
SIGNATURES: tuple[Signature, ...] = (
    _row(Cause.METAL_OOM, r"\[METAL\].*(kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory)"),
    _row(Cause.METAL_ERROR, r"\[METAL\].*kIOGPUCommandBufferCallbackError\w+"),
    _row(Cause.CUDA_OOM, r"(?i)cuda.*out of memory|cudaErrorMemoryAllocation"),
    # MLX names the call and CUDA's text for it (backend/cuda/utils.cpp); of cuBLAS 3, which is ALLOC_FAILED.
    _row(Cause.CUDA_OOM, r"\bcu[A-Z]\w*.* failed: out of memory|\bcublas\w*.* failed with code: 3\."),
    _row(Cause.RESOURCE_LIMIT, r"Resource limit \(\d+\) exceeded"),
    _row(Cause.ALLOCATION_REFUSED, r"\[(metal::)?malloc\w*\] (Attempting to allocate|Unable to allocate)"),
    _row(Cause.ALLOCATION_REFUSED, r"^(MemoryError\b|std::bad_alloc)|terminating.*std::bad_alloc"),
    _row(Cause.PORT_TAKEN, r"Address already in use", loading=True),
    _row(
        Cause.UNSUPPORTED_FLAG, r"error: (unrecognized arguments|argument -|ambiguous option)", loading=True
    ),
    _row(Cause.SERVER_MISSING, r"No module named ('mlx(_lm)?'|mlx_lm$)|^mlxguard: cannot run", loading=True),
    _row(Cause.BAD_MODEL, r"Model type .* not supported", loading=True),
    _row(Cause.BAD_MODEL, r"ValueError: (Missing|Received) \d+ parameters", loading=True),
    _row(Cause.BAD_MODEL, r"FileNotFoundError: .*(config\.json|[Ss]afetensors)", loading=True),
    _row(Cause.BAD_MODEL, r"\[load_safetensors\]", loading=True),
    _row(Cause.BAD_MODEL, r"HFValidationError|RepositoryNotFoundError|RevisionNotFoundError", loading=True),
)

_BY_SIGNAL: dict[int, Cause] = {
    signals.SIGKILL: Cause.KILLED_BY_SYSTEM,
    signals.SIGSEGV: Cause.SEGFAULT,
    signals.SIGBUS: Cause.SEGFAULT,
    signals.SIGABRT: Cause.ABORTED,
}

#: Signals by which people and process managers ask a process to end; no fault of its own sends them.
_POLITE = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT)

#: Symptoms that name the cause by themselves, before any text is looked at.
_CERTAIN = {
    Symptom.STOPPED: Cause.OWN_STOP,
    Symptom.RECYCLED: Cause.RECYCLED,
    Symptom.PORT_TAKEN: Cause.PORT_TAKEN,
    Symptom.WEDGE: Cause.WEDGE,
}

#: Symptoms that name the cause when no text does.
_OTHERWISE = {
    Symptom.THREAD_DEAD: Cause.GENERATION_THREAD_DIED,
    Symptom.LOAD_FAILED: Cause.LOAD_FAILED,
    Symptom.START_TIMEOUT: Cause.START_TIMEOUT,
}


def diagnose(evidence: Evidence, *, loading: bool) -> Diagnosis:
    """Find the cause of one death. `loading`: the generation had not yet produced its first token."""
    cause = _CERTAIN.get(evidence.symptom) or _by_text(evidence.last_lines, loading) or _by_status(evidence)
    if (deed := _deed(cause, evidence)) is not None:
        return Diagnosis(cause, deed, outside=True)
    return Diagnosis(cause, _with_status(NATURES[cause].explanation, cause, evidence))


def _deed(cause: Cause, evidence: Evidence) -> str | None:
    """What somebody has done to the server from outside, if that is what the evidence says."""
    number = _signal_of(evidence)
    if cause is Cause.KILLED_BY_SYSTEM and not evidence.pressure.kills:
        return "The server was killed with SIGKILL, and not by the system for want of memory."
    if cause is Cause.UNKNOWN and number in _POLITE:
        return f"The server was told to end by {signals.Signals(number).name}, and not by the proxy."
    if cause is Cause.WEDGE and evidence.stopped:
        return "The server's process was stopped, by SIGSTOP or a debugger, until it was restarted."
    return None


def _by_text(lines: tuple[str, ...], loading: bool) -> Cause | None:
    tail = lines[-EVIDENCE_LINES:]
    for signature in SIGNATURES:
        if (loading or not signature.loading) and any(signature.text.search(line) for line in tail):
            return signature.cause
    return None


def _by_status(evidence: Evidence) -> Cause:
    if evidence.symptom in _OTHERWISE:
        return _OTHERWISE[evidence.symptom]
    number = _signal_of(evidence)
    return _BY_SIGNAL.get(number, Cause.UNKNOWN) if number is not None else Cause.UNKNOWN


def _signal_of(evidence: Evidence) -> int | None:
    if evidence.signal is None and evidence.exit_code is not None and evidence.exit_code > 128:
        return evidence.exit_code - 128  # a shell or launcher between us and the server
    return evidence.signal


def _with_status(explanation: str, cause: Cause, evidence: Evidence) -> str:
    if cause is not Cause.UNKNOWN:
        return explanation
    if evidence.signal is not None:
        return f"The server was ended by signal {evidence.signal}."
    if evidence.exit_code is not None:
        return f"The server exited with code {evidence.exit_code}."
    return explanation


#: The server writes this when its generation thread ends by an exception. Text of a client could look the
#: same, so it is a reason to ask /health at once and no proof.
_THREAD_DIED = re.compile(r"generation thread died")


def suspicious(line: str) -> bool:
    """True if a line of the child's output is a reason to check on it at once."""
    return _THREAD_DIED.search(line) is not None


def lacks_memory(lines: tuple[str, ...]) -> bool:
    """True if the last lines of a child that lives say that it was short of memory.

    A server that can start no thread any more closes connections unanswered and goes on with what it has.
    """
    tail = lines[-EVIDENCE_LINES:]
    if any("can't start new thread" in line or "MemoryError" in line for line in tail):
        return True
    cause = _by_text(tail, loading=False)
    return cause is not None and NATURES[cause].memory


def port_taken(line: str) -> bool:
    """True if the server says that it could not bind its port; its process may live on without serving."""
    return "Address already in use" in line
