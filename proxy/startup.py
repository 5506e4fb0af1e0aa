"""The process and its port. The port answers /livez while all that serves requests is still being imported.

That takes most of the time of a start (aiohttp, the supervisor, some hundred small classes). A process
manager that probes meanwhile gets its 200; everybody else is held, and then handed over with all it has sent.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import logging
import resource
import socket

from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.http.early_listener import EarlyListener, listen, why_not

log = logging.getLogger("mlxguard.app")

#: File descriptors to have: a connection each for 512 clients and as many to the child, and room to spare.
_FILES = 4096


def raise_file_limit() -> None:
    """Have file descriptors for all connections: macOS starts processes with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings: Settings, source: str) -> int:
    """Serve until a signal says to stop; the exit code is one of `ExitCode`. `source`: for the log."""
    raise_file_limit()
    try:
        sock = listen(settings.server)
    except OSError as error:
        log.error("cannot_listen", extra={"reason": why_not(settings.server, error)})
        return ExitCode.PORT_IN_USE if error.errno == errno.EADDRINUSE else ExitCode.CONFIGURATION
    with sock:
        return asyncio.run(_serve(settings, sock, source))


async def _serve(settings: Settings, sock: socket.socket, source: str) -> int:
    door = await EarlyListener.open(sock)
    server = await asyncio.to_thread(importlib.import_module, "proxy.server")
    # What was imported stays: 20 ms of each full collection, in the loop's thread.
    gc.collect()
    gc.freeze()
    code: int = await server.run(settings, door, source)
    return code
