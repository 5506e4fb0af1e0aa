"""The causes that a death of the child can have, and what holds for each whatever the case at hand (pure).

What to do about a death depends on the case: `advice.py`.
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
    OWN_STOP = "own_stop"
    RECYCLED = "recycled"
    UNKNOWN = "unknown"


class Symptom(StrEnum):
    """How the death was noticed."""

    EXIT = "exit"  # the process is gone
    THREAD_DEAD = "thread_dead"  # /health says so, or no request is answered; the process lives
    WEDGE = "wedge"  # no sign of life for the stall time, and the canary unanswered
    START_TIMEOUT = "start_timeout"
    LOAD_FAILED = "load_failed"  # THREAD_DEAD before the first token
    PORT_TAKEN = "port_taken"
    STOPPED = "stopped"  # by us, for good
    RECYCLED = "recycled"  # by us, to start again


@dataclass(frozen=True, slots=True)
class Nature:
    """What follows from a cause. `explanation`: one line for the user."""

    explanation: str
    memory: bool = False
    retry: Retry = Retry.COUNTED


NATURES: dict[Cause, Nature] = {
    Cause.METAL_OOM: Nature("The GPU ran out of memory (Metal).", memory=True),
    Cause.METAL_ERROR: Nature("Metal gave up a command buffer for another reason than memory."),
    Cause.CUDA_OOM: Nature("The GPU ran out of memory (CUDA).", memory=True),
    Cause.ALLOCATION_REFUSED: Nature("MLX was refused one allocation.", memory=True),
    Cause.RESOURCE_LIMIT: Nature("MLX reached Metal's limit on the number of buffers.", memory=True),
    Cause.KILLED_BY_SYSTEM: Nature(
        "The server was killed from outside with SIGKILL, most often by the system to get memory back.",
        memory=True,
    ),
    Cause.SEGFAULT: Nature("The server crashed in native code (a bad memory access)."),
    Cause.ABORTED: Nature("Native code in the server aborted."),
    Cause.GENERATION_THREAD_DIED: Nature(
        "The server's generation thread died; its process lived on without serving."
    ),
    Cause.WEDGE: Nature("The server stopped making progress and did not answer a test request."),
    Cause.START_TIMEOUT: Nature("The server did not produce a token in time after its start."),
    Cause.LOAD_FAILED: Nature("The server could not load the model."),
    Cause.BAD_MODEL: Nature("The model cannot be loaded by the installed mlx-lm.", retry=Retry.NEVER),
    Cause.PORT_TAKEN: Nature("Another program took the server's port.", retry=Retry.FREE),
    Cause.UNSUPPORTED_FLAG: Nature(
        "The installed mlx_lm.server refused a command-line flag.", retry=Retry.NEVER
    ),
    Cause.SERVER_MISSING: Nature("mlx_lm.server could not be run.", retry=Retry.NEVER),
    Cause.SPAWN_FAILED: Nature("The system refused to start a process."),
    Cause.OWN_STOP: Nature("The server was stopped by the proxy.", retry=Retry.FREE),
    Cause.RECYCLED: Nature("The server was restarted as planned.", retry=Retry.FREE),
    Cause.UNKNOWN: Nature("The server ended for a reason that is not known."),
}
