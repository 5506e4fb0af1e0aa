"""Stands in for the one thing Linux cannot do: Metal's abort. Loaded by Python itself, through PYTHONPATH.

On SIGUSR1 the process writes what an out-of-memory on Metal writes, and aborts as libc++ does (mlx
0.31.2 and before). The server is the real one, and does not know of this.
"""

import os
import signal
from types import FrameType

METAL_TEXT = (
    b"libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] "
    b"Command buffer execution failed: "
    b"Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
)


def _abort(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, METAL_TEXT)
    os.abort()


if "FAULTS_BY_SIGNAL" in os.environ:
    signal.signal(signal.SIGUSR1, _abort)
