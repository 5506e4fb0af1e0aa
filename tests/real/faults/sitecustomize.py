"""Faults inside the child, which is the real server and knows nothing of this. Python loads it (PYTHONPATH).

FAULTS_BY_SIGNAL stands in for the one thing Linux cannot do, Metal's abort: on SIGUSR1 the process writes
what an out-of-memory on Metal writes, and aborts as libc++ does (mlx 0.31.2 and before).

FAULTS_BY_WORD stands in for a prompt that native code cannot bear: a request body with "poison" in it ends
the process by SIGSEGV a moment after it was read, one with "glutton" as on SIGUSR1.

FAULTS_UNCHECKED tells the proxy's own checks to let sampling fields through, so that what kills the server
gets to it.

FAULTS_AT_START names a folder of orders, files `hang-*`, `fail-*` or `port-*`; each child takes one.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

METAL_TEXT = (
    b"libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] "
    b"Command buffer execution failed: Insufficient Memory "
    b"(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
)


def _abort(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, METAL_TEXT)
    os.abort()


def _order() -> str | None:
    for order in sorted(Path(os.environ["FAULTS_AT_START"]).iterdir()):
        order.unlink()
        return order.name.partition("-")[0]
    return None


def _take_port() -> None:
    """Another program has it, for longer than this child lives."""
    port = int(sys.orig_argv[sys.orig_argv.index("--port") + 1])
    thief = socket.create_server(("127.0.0.1", port))
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    thief.close()


def _read(text: str | bytes, **options: object) -> object:
    """json.loads, as the server reads bodies with it."""
    for word, number in ((b"poison", signal.SIGSEGV), (b"glutton", signal.SIGUSR1)):
        if word in (text.encode() if isinstance(text, str) else text):
            threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
    return _loads(text, **options)


_loads = json.loads
_CHILD = any(word.endswith("server_wrapper.py") for word in sys.orig_argv)

if "FAULTS_BY_SIGNAL" in os.environ:
    signal.signal(signal.SIGUSR1, _abort)

if "FAULTS_BY_WORD" in os.environ and _CHILD:
    json.loads = _read

if "FAULTS_UNCHECKED" in os.environ and any(word.endswith("mlxguard-proxy") for word in sys.orig_argv):
    from proxy.request import sampling

    vars(sampling)["parse"] = lambda body: {name: body[name] for name in sampling.NAMES if name in body}
    vars(sampling)["bounded"] = lambda fields, vocab_size: fields

if "FAULTS_AT_START" in os.environ and _CHILD:
    match _order():
        case "hang":
            time.sleep(3600)
        case "fail":
            os._exit(3)
        case "port":
            _take_port()
