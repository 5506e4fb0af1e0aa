"""Pure. The causes that a death of the child can have, and what holds for each of them in every case.

What to do about a particular death depends on its circumstances: see `advice.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisor.lifecycle.restart_policy import Retry


class Cause(StrEnum):
    METAL_OOM = "metal_oom"
    METAL_ERROR = "metal_error"
    CUDA_OOM = "cuda_oom"
    ALLOCATION_REFUSED = "allocation_refused"
    RESOURCE_LIMIT = "resource_limit"
    KILLED_BY_SYSTEM = "killed_by_system"
    SEGFAULT = "segfault"
    ABORTED = "aborted"
    GENERATION_THREAD_DIED = "generation_thread_died"
    WEDGE = "wedge"
    START_TIMEOUT = "start_timeout"
    LOAD_FAILED = "load_failed"
    BAD_MODEL = "bad_model"
    PORT_TAKEN = "port_taken"
    UNSUPPORTED_FLAG = "unsupported_flag"
    SERVER_MISSING = "server_missing"
    SPAWN_FAILED = "spawn_failed"
    FILE_LIMIT = "file_limit"
    WATCH_FAILED = "watch_failed"
    OWN_STOP = "own_stop"
    RECYCLED = "recycled"
    UNKNOWN = "unknown"


class Symptom(StrEnum):
    """How the death was noticed."""

    EXIT = "exit"  # the process is gone
    THREAD_DEAD = "thread_dead"  # /health says so, or no request is answered; the process lives
    WEDGE = "wedge"  # no activity for the stall time, and the canary went unanswered
    START_TIMEOUT = "start_timeout"
    LOAD_FAILED = "load_failed"  # THREAD_DEAD before the first token
    PORT_TAKEN = "port_taken"
    STOPPED = "stopped"  # by the supervisor, for good
    RECYCLED = "recycled"  # by the supervisor, to start again
    UNWATCHED = "unwatched"  # the watch itself failed, so that no other end would be noticed


#: A child with one of these symptoms will not react to SIGINT, so its stop begins with SIGTERM.
IGNORES_SIGINT = frozenset({Symptom.WEDGE, Symptom.START_TIMEOUT, Symptom.PORT_TAKEN})


@dataclass(frozen=True, slots=True)
class CauseInfo:
    """What follows from a cause: one line for the user, whether memory is to blame, whether to restart."""

    explanation: str
    memory: bool = False
    retry: Retry = Retry.COUNTED


CAUSE_INFO: dict[Cause, CauseInfo] = {
    Cause.METAL_OOM: CauseInfo("The GPU ran out of memory (Metal).", memory=True),
    Cause.METAL_ERROR: CauseInfo("Metal aborted a command buffer for a reason other than memory."),
    Cause.CUDA_OOM: CauseInfo("The GPU ran out of memory (CUDA).", memory=True),
    Cause.ALLOCATION_REFUSED: CauseInfo("MLX was refused one allocation.", memory=True),
    Cause.RESOURCE_LIMIT: CauseInfo("MLX reached Metal's limit on the number of buffers.", memory=True),
    Cause.KILLED_BY_SYSTEM: CauseInfo(
        "The server was killed from outside with SIGKILL, most often by the system to reclaim memory.",
        memory=True,
    ),
    Cause.SEGFAULT: CauseInfo("The server crashed in native code (a bad memory access)."),
    Cause.ABORTED: CauseInfo("Native code in the server aborted."),
    Cause.GENERATION_THREAD_DIED: CauseInfo(
        "The server's generation thread died; its process lived on without serving."
    ),
    Cause.WEDGE: CauseInfo("The server stopped making progress and did not answer a test request."),
    Cause.START_TIMEOUT: CauseInfo("The server did not produce a token in time after its start."),
    Cause.LOAD_FAILED: CauseInfo("The server could not load the model."),
    Cause.BAD_MODEL: CauseInfo("The model cannot be loaded by the installed mlx-lm.", retry=Retry.NEVER),
    Cause.PORT_TAKEN: CauseInfo("Another program took the server's port.", retry=Retry.FREE),
    Cause.UNSUPPORTED_FLAG: CauseInfo(
        "The installed mlx_lm.server refused a command-line flag.", retry=Retry.NEVER
    ),
    Cause.SERVER_MISSING: CauseInfo("mlx_lm.server could not be run.", retry=Retry.NEVER),
    Cause.SPAWN_FAILED: CauseInfo("The system refused to start a process."),
    Cause.FILE_LIMIT: CauseInfo(
        "The limit on open files is lower than mlx_lm needs to start.", retry=Retry.NEVER
    ),
    Cause.WATCH_FAILED: CauseInfo("The proxy could no longer watch the server, and replaced it to be safe."),
    Cause.OWN_STOP: CauseInfo("The server was stopped by the proxy.", retry=Retry.FREE),
    Cause.RECYCLED: CauseInfo("The server was restarted as planned.", retry=Retry.FREE),
    Cause.UNKNOWN: CauseInfo("The server ended for an unknown reason."),
}
