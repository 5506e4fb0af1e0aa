"""Small programs of known behaviour, which `trials` observes from outside.

Run as `python -P -m proxy.doctor.trial_programs NAME [BYTES]`. Each prints one JSON line at the end of a
step, and goes on, or ends, when a line arrives on its standard input. Only `mlx` imports mlx.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

from supervisor.child.process import Child

#: A child that ignores every signal that can be ignored, and so does its own child. It prints both pids.
_STUBBORN = (
    "import os, signal, time\n"
    "for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
    "child = os.fork()\n"
    "if child: print(os.getpid(), child, flush=True)\n"
    "time.sleep(60)\n"
)


def allocate(size: int) -> None:
    """Allocate `size` bytes of ordinary memory in the second step, and write to all of it."""
    _print()
    _wait()
    block = bytearray(b"\x55") * size
    _print(bytes=len(block))
    _wait()


def mlx(size: int) -> None:
    """Allocate `size` bytes of MLX's memory in the second step, on the device that the server uses."""
    import mlx.core as mx  # noqa: PLC0415 - only in this program's own process

    from supervisor.tracing.trace import device  # noqa: PLC0415

    mx.eval(mx.ones(1024))  # sets up the device before anything is measured
    _print(active=mx.get_active_memory(), **device(mx))
    _wait()
    block = mx.ones(size // 4, dtype=mx.float32)
    mx.eval(block)
    _print(active=mx.get_active_memory())
    _wait()


def listen(_: int) -> None:
    """Listen on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        _print(port=server.getsockname()[1])
        _wait()


def gateway(_: int) -> None:
    """Run a stubborn child, as the gateway runs the server, until killed."""
    asyncio.run(_gateway())


async def _gateway() -> None:
    line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    child = Child(line.set_result)
    await child.spawn(lambda _: (sys.executable, "-S", "-c", _STUBBORN), os.environ)
    _print(pids=[int(pid) for pid in (await line).split()])
    await child.wait_closed()


def _print(**fields: Any) -> None:
    sys.stdout.write(json.dumps({"pid": os.getpid(), **fields}) + "\n")
    sys.stdout.flush()


def _wait() -> None:
    """Wait for the next line, and exit if the parent has ended."""
    if not sys.stdin.readline():
        sys.exit(0)


PROGRAMS = {program.__name__: program for program in (allocate, mlx, listen, gateway)}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 0)
