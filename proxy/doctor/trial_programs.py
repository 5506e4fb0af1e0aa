"""Small programs whose behaviour is known, to be looked at from outside by `trials.py`.

Run as `python -P -m proxy.doctor.trial_programs NAME [BYTES]`. Each prints one JSON line for each step, and
goes to the next step, or ends, when its stdin says so. Only `mlx` imports mlx.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

from supervisor.child.process import Child

#: Ignores what may be ignored, and has a child of its own that does so too. It prints both pids.
_STUBBORN = (
    "import os, signal, time\n"
    "for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
    "child = os.fork()\n"
    "if child: print(os.getpid(), child, flush=True)\n"
    "time.sleep(60)\n"
)


def allocate(size: int) -> None:
    """Hold `size` bytes of ordinary memory, all of it written to, from the second step on."""
    _tell()
    _wait()
    block = bytearray(b"\x55") * size
    _tell(bytes=len(block))
    _wait()


def mlx(size: int) -> None:
    """Hold `size` bytes of MLX's memory, on the device that the server would use."""
    import mlx.core as mx  # noqa: PLC0415 - a specimen's own process

    from supervisor.tracing.trace import device  # noqa: PLC0415

    mx.eval(mx.ones(1024))  # the device is set up before anything is measured
    _tell(active=mx.get_active_memory(), **device(mx))
    _wait()
    block = mx.ones(size // 4, dtype=mx.float32)
    mx.eval(block)
    _tell(active=mx.get_active_memory())
    _wait()


def listen(_: int) -> None:
    """Listen on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        _tell(port=server.getsockname()[1])
        _wait()


def gateway(_: int) -> None:
    """Keep a stubborn child, as the gateway keeps the server; to be killed."""
    asyncio.run(_gateway())


async def _gateway() -> None:
    said: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    child = Child(lambda line: said.set_result([int(pid) for pid in line.split()]))
    await child.spawn(lambda _: (sys.executable, "-S", "-c", _STUBBORN), os.environ)
    _tell(pids=await said)
    await child.wait_closed()


def _tell(**fields: Any) -> None:
    sys.stdout.write(json.dumps({"pid": os.getpid(), **fields}) + "\n")
    sys.stdout.flush()


def _wait() -> None:
    """Until the next line, or until whoever started us is gone."""
    if not sys.stdin.readline():
        sys.exit(0)


SPECIMENS = {program.__name__: program for program in (allocate, mlx, listen, gateway)}

if __name__ == "__main__":
    SPECIMENS[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 0)
